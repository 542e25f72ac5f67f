"""A microphone without hardware: the null sink of a private PulseAudio server.

with virtual_microphone() as microphone:
    subprocess.Popen(["spellstream", "listen", "--input-device", microphone.device], env=microphone.environment)
    microphone.play("speech.wav")
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SINK = "spellstream"
DEVICE = "pulse"  # the name of PulseAudio's default source in ALSA, and so in PortAudio
START_SECONDS = 20.0


@dataclass
class VirtualMicrophone:
    """A microphone called `device`, which hears the audio played into it.

    The sink's clock starts with a burst of up to two seconds of silence: read some audio before playing.
    """

    folder: Path
    sample_rate: int = 44_100
    device: str = DEVICE
    server: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which programs find this server and not the user's own."""
        return {
            "PULSE_SERVER": f"unix:{self.folder / 'native'}",
            "PULSE_SINK": SINK,
            "PULSE_SOURCE": f"{SINK}.monitor",
            "PULSE_COOKIE": str(self.folder / "cookie"),
            "PULSE_RUNTIME_PATH": str(self.folder),
        }

    @property
    def environment(self) -> dict[str, str]:
        """The complete environment for a program that listens or plays."""
        return {**os.environ, **self.variables}

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        command = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]
        command += ["--high-priority=no", "--realtime=no", "--disallow-exit", "--log-target=stderr"]
        command += ["-L", f"module-null-sink sink_name={SINK} rate={self.sample_rate} channels=2"]
        command += ["-L", f"module-native-protocol-unix auth-anonymous=1 socket={self.folder / 'native'}"]
        environment = {**self.environment, "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder)}
        log = self.folder / "log"
        with log.open("wb") as file:
            self.server = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(["pactl", "info"], env=self.environment, capture_output=True).returncode != 0:
            if self.server.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"PulseAudio does not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server at once: the microphone is unplugged."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            (self.folder / "native").unlink(missing_ok=True)

    def play(self, path: str | os.PathLike[str]) -> None:
        """Play a file into the microphone, to its end."""
        subprocess.run(["paplay", f"--device={SINK}", os.fspath(path)], env=self.environment, check=True, timeout=120)


@contextlib.contextmanager
def virtual_microphone(sample_rate: int = 44_100) -> Iterator[VirtualMicrophone]:
    """Run a server for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="spellstream-") as folder:  # short: a socket's path is at most 108 bytes
        microphone = VirtualMicrophone(Path(folder), sample_rate)
        try:
            microphone.start()
            yield microphone
        finally:
            microphone.kill()
