"""Training: imported by nothing that serves."""
