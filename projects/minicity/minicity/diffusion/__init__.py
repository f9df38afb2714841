"""The miniature Stable Diffusion: tokenizer, networks, training and evaluation."""
