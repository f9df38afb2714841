"""Checkpoints: trained weights, the state of a training, what the weights depend on, and the checks of all three."""
