"""Set-up of all tests: optional tests, fixed seeds, one thread, real speech, shared fixtures.

Five markers name optional tests:

- `slow`, `mic`, `browser` and `ray` are deselected unless asked for, by `--run slow,mic`, by the environment
  (`SPELLSTREAM_TESTS=slow,mic`, or `all`) or by naming the marker in `-m`;
- `gpu` runs wherever there is a CUDA device;
- a requested test that cannot run on this machine is skipped, with the reason.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import logging
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from torch import Tensor

    from streaming.engine import Engine
    from tests.support.browser import Visit
    from tests.support.commands import Command, StubRecogniser

# Before torch or numpy start their thread pools, here and in the commands that tests run. Models this small gain
# nothing from a second thread, and on a busy machine the threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A background job of a shell ignores SIGINT, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
SLOW_SECONDS = 1800  # per slow test; pyproject.toml has the limit for the others
ON_REQUEST = ("slow", "mic", "browser", "ray")
ENVIRONMENT = "SPELLSTREAM_TESTS"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

hypothesis.settings.register_profile("spellstream", deadline=None, derandomize=True)
hypothesis.settings.load_profile("spellstream")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run",
        action="append",
        default=[],
        metavar="NAMES",
        help=f"also run these optional tests: {', '.join(ON_REQUEST)}, comma-separated, or all (also: ${ENVIRONMENT})",
    )


def pytest_report_header(config: pytest.Config) -> str:
    wanted = requested(config)
    return "optional tests: " + ", ".join(f"{name} {'on' if name in wanted else 'off'}" for name in ON_REQUEST)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = requested(config)
    kept, deselected = [], []
    for item in items:
        not_asked_for = any(item.get_closest_marker(name) for name in ON_REQUEST if name not in wanted)
        (deselected if not_asked_for else kept).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept
    for item in kept:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))

    for name, obstacle in OBSTACLES.items():
        marked = [item for item in kept if item.get_closest_marker(name)]
        reason = obstacle() if marked else None
        for item in marked if reason else ():
            item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))


@pytest.fixture(autouse=True, scope="module")
def no_lazy_modules() -> Iterator[None]:
    """Forget SpeechBrain's lazy modules, which import missing packages as soon as an attribute is read."""
    yield
    for name, module in list(sys.modules.items()):
        if name.startswith("speechbrain.") and type(module).__name__ in ("LazyModule", "DeprecatedModuleRedirect"):
            del sys.modules[name]


def requested(config: pytest.Config) -> set[str]:
    """The optional tests that the command line or the environment asks for."""
    given = [*config.getoption("--run"), os.environ.get(ENVIRONMENT, "")]
    names = {name.strip() for text in given for name in text.split(",")} - {""}
    if unknown := names - {*ON_REQUEST, "all", "gpu"}:
        raise pytest.UsageError(
            f"unknown optional tests {', '.join(sorted(unknown))} in --run or ${ENVIRONMENT}; "
            f"known: {', '.join(ON_REQUEST)}, all"
        )
    names |= set(re.findall(r"\w+", config.getoption("markexpr") or ""))
    return set(ON_REQUEST) if "all" in names else names & set(ON_REQUEST)


def no_gpu() -> str | None:
    """The reason why GPU tests cannot run, or None."""
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def no_microphone() -> str | None:
    """The reason why there can be no virtual microphone, or None."""
    for program in ("pulseaudio", "pactl"):
        if not shutil.which(program):
            return f"{program} is not installed"
    if ctypes.util.find_library("portaudio") is None:
        return "the PortAudio library is not installed"
    if not any(Path("/usr").glob("lib*/**/alsa-lib/libasound_module_pcm_pulse.so")):
        return "ALSA's PulseAudio plugin (libasound2-plugins) is not installed"
    return None


def no_browser() -> str | None:
    """The reason why no browser can be opened, or None."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    return None if browser_program() else "neither Chromium nor Chrome is installed"


def browser_program() -> str | None:
    """Path of the system's browser; playwright's own would have to be downloaded."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def no_ray() -> str | None:
    """The reason why Ray cannot be started, or None."""
    return None if importlib.util.find_spec("ray") else "Ray is not installed"


OBSTACLES: dict[str, Callable[[], str | None]] = {
    "gpu": no_gpu,
    "mic": no_microphone,
    "browser": no_browser,
    "ray": no_ray,
}


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The folder that holds `pyproject.toml`."""
    return ROOT


SPEECH = Path(os.environ.get("SPELLSTREAM_SPEECH") or ROOT.parent / "shared" / "speech")


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """Real speech: `$SPELLSTREAM_SPEECH`, or `../shared/speech` beside the repository; skipped if missing."""
    if not SPEECH.is_dir():
        pytest.skip(f"no real speech: {SPEECH} is not a folder (name one in SPELLSTREAM_SPEECH)")
    return SPEECH


@pytest.fixture(scope="session")
def recordings() -> list[Tensor]:
    """Eight recordings: real speech if available, otherwise the sample from different starts."""
    from asr.audio import load

    if SPEECH.is_dir():
        return [load(path) for path in sorted((SPEECH / "dev" / "dev-clean").glob("*"))[:8]]
    sample = load(ROOT / "recipes" / "sample.flac")
    return [sample.roll(-8_000 * number) for number in range(8)]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    from tests.support.commands import caller

    return caller(capsys)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> StubRecogniser:
    """A stub loaded as any model. The working folder has empty files: a.wav, b.wav, c.wav, bad.wav, talk.wav."""
    import asr
    from tests.support.archive import files
    from tests.support.commands import StubRecogniser

    names = ("a.wav", "b.wav", "c.wav", "bad.wav", "talk.wav")
    monkeypatch.chdir(files(tmp_path_factory.mktemp("working_folder"), *names))

    recogniser = StubRecogniser()

    def load(*arguments: str) -> StubRecogniser:
        recogniser.asked["load"] = arguments
        return recogniser

    monkeypatch.setattr(asr, "load", load)
    return recogniser


@pytest.fixture(scope="session")
def shipped_engine() -> Engine:
    """An engine with the shipped model and its own settings, used by one server after the other."""
    import asr
    from streaming.engine import Engine

    return Engine(asr.load("default"))


@pytest.fixture(scope="module")  # not session: playwright's event loop runs in this thread while the browser is open
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, with `recipes/sample.flac` as the audio of its microphone."""
    import numpy as np
    import soundfile

    from asr.audio import SAMPLE_RATE, load
    from tests.support.browser import browsing

    path = tmp_path_factory.mktemp("microphone") / "heard.wav"
    soundfile.write(path, np.pad(load(ROOT / "recipes/sample.flac").numpy(), (SAMPLE_RATE // 2, 0)), SAMPLE_RATE)
    with browsing(browser_program() or "", path) as started:
        yield started


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Path of the browser, for tests marked `browser`."""
    return browser_program() or ""


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A new page; an error in a script, or a violation of the page's content policy, fails the test."""
    from tests.support.browser import visiting

    with visiting(browser) as visitor:
        yield visitor


@pytest.fixture
def _own_logging() -> Iterator[None]:
    """Restore the process's logging, which the command changes."""
    root, streaming = logging.getLogger(), logging.getLogger("streaming")
    before = (root.handlers[:], root.level, streaming.level)
    yield
    root.handlers[:], level, streaming_level = before
    root.setLevel(level)
    streaming.setLevel(streaming_level)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries may use the global generator
    torch.manual_seed(0)
