"""Making downloaded data sets ready, and checking them."""
