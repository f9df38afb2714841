"""CLOUDS: collaborating foundation models for domain-generalized semantic segmentation."""
