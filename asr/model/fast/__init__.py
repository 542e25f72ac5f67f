"""Fast CPU paths. Plain PyTorch is the reference, and each fast path has a test against it."""
