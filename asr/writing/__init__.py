"""Conversion of spoken words to written text: capitals, punctuation, numbers, and hotwords in their own spelling."""
