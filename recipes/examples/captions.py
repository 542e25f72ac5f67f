"""Captions from the default microphone, redrawn in place; Ctrl-C ends them.

python recipes/examples/captions.py
"""

import streaming

try:
    for event in streaming.listen():
        if isinstance(event, streaming.Final):
            print(f"\r\033[K{event.text}")  # a finished segment stays
        else:
            print(f"\r\033[K{event.text}", end="", flush=True)  # a partial is overwritten by the next event
except KeyboardInterrupt:
    print()
