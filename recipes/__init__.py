"""Experiments: data in, checkpoint and table out."""
