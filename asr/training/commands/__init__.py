"""The commands that prepare data and train."""
