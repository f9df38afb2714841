"""Generation of unlabeled images: prompts, painter, quality gate, and the set on disk. Import the modules by name."""
