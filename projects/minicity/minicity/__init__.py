"""minicity: a rendered street world with exact labels, and miniature foundation models trained on it."""
