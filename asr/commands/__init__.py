"""The `spellstream` command."""
