"""The miniature Segment Anything: training data, prompts, losses, training and evaluation."""
