"""The recogniser and the language models: modules whose state is passed in and returned."""
