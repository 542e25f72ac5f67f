"""Dictation: typing of words into the focused window while they are spoken, with spoken commands for editing."""
