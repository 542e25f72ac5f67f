"""`python -m asr` is the `spellstream` command."""

import sys

from asr.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
