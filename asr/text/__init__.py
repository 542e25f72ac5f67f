"""Text: tokens, normalisation and error rates."""
