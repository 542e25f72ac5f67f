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
    # Threads that wait for each other sleep. By default they spin, which takes the core from the very thread that they
    # wait for where other programs keep the cores busy: twelve clips took 413 s in place of 35. Read by OpenMP when
    # PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
