"""Transcripts as text, subtitles and rows."""
