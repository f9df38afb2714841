"""detectron2's grammar in pure Python, for machines without detectron2. Import its names from `clouds.d2`, not here."""
