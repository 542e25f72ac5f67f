"""Many sources at once: batches, manifests, clusters."""
