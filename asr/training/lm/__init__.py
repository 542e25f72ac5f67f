"""Language model training."""
