"""The miniature CLIP: captioned crops, losses, training and evaluation."""
