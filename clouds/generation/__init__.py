"""From prompts to a set of images: what paints them, what judges them, and how the set lies on disk."""
