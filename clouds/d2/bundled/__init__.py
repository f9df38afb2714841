"""Pure-Python subset of detectron2 for machines without it. Import its names from `clouds.d2`, not from here."""
