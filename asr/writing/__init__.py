"""From spoken words to written text: capitals, punctuation, numbers, and names as they were given."""
