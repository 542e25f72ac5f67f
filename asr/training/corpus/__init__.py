"""Corpora: read, checked and prepared for training."""
