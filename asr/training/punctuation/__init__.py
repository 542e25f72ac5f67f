"""Training of the tagger for punctuation and capitals."""
