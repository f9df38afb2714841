"""The page of `clouds serve`."""
