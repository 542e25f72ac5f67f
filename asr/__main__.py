"""The `spellstream` command, also run by `python -m asr`.

Imports at the top are kept to a minimum, so that Ctrl-C is handled from the beginning.
"""

import os
import signal
import sys

__all__ = ["main"]

INTERRUPTED = 130  # as in asr.commands.main


def main() -> int:
    """Run the command line and return the exit status."""
    # Let waiting OpenMP threads sleep. By default they spin, and on a busy machine take the core from the thread that
    # they wait for: twelve clips took 413 s instead of 35 s. OpenMP reads this when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    ends_at_once = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ends_at_once:
        # No exception here, which a running import could swallow or print; there is nothing to clean up yet.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from asr.commands.main import main as run

    if ends_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()


if __name__ == "__main__":
    sys.exit(main())
