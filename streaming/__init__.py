"""Recognition over time: sources, buffers, sessions and events, up to many streams in one batch."""
