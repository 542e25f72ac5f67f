"""Models of other toolkits, converted to folders of our format."""
