"""Dictation: words are typed into the focused window while they are spoken, and spoken commands edit them."""
