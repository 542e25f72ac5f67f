"""The commands that listen and serve."""
