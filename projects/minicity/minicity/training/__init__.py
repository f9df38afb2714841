"""Training loop and image operations that the three miniatures share."""
