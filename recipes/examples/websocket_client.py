"""Stream a WAV file (16-bit, mono) in real time to `spellstream serve`, as to any vosk-server.

spellstream serve &
python recipes/examples/websocket_client.py talk.wav        (pip install websockets)
"""

import asyncio
import json
import sys
import wave

from websockets.asyncio.client import connect


async def main(path: str, url: str = "ws://localhost:2700", speed: float = 1.0) -> None:
    """Send the file in pieces of 100 ms and print the answers."""
    with wave.open(path) as sound:
        async with connect(url) as socket:
            await socket.send(json.dumps({"config": {"sample_rate": sound.getframerate(), "words": True}}))
            while samples := sound.readframes(sound.getframerate() // 10):
                await socket.send(samples)
                show(json.loads(await socket.recv()))  # one answer to each message
                await asyncio.sleep(0.1 / speed)
            await socket.send(json.dumps({"eof": 1}))
            async for answer in socket:
                show(json.loads(answer))


def show(answer: dict[str, str]) -> None:
    """A final on a line of its own; a partial in place."""
    if text := answer.get("text"):
        print(f"\r\033[K{text}")
    elif partial := answer.get("partial"):
        print(f"\r\033[K{partial}", end="", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    asyncio.run(main(*arguments[:2], speed=float(arguments[2]) if len(arguments) > 2 else 1.0))
