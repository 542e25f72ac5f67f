"""The `spellstream` command, also run by `python -m asr`.

Nothing else is imported up here, so that Ctrl-C is handled from the beginning.
"""

import os
import signal
import sys

__all__ = ["main"]

INTERRUPTED = 130  # as in asr.commands.main


def main() -> int:
    """Run the command line and return the exit status."""
    ends_at_once = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ends_at_once:
        # Not by an exception, which an import under way may swallow or print; there is nothing to clean up yet.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from asr.commands.main import main as run

    if ends_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
