"""`spellstream info`: versions, devices and models."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import __version__

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["gather", "lines", "model_facts"]

NOT_THERE = "not installed"


def gather() -> dict[str, Any]:
    """Versions, devices and shipped models as plain values."""
    from asr.folders import pretrained

    return {"versions": _versions(), "devices": _devices(), "models": pretrained()}


def model_facts(name: str) -> dict[str, Any]:
    """Facts about a model: sizes, settings, language model.

    Raises:
        CheckpointError: the model does not exist or is broken.
    """
    from asr.checkpoint import has_lm, load, load_lm
    from asr.config import to_dict

    model, tokenizer, folder = load(name)
    config = model.config
    lm = load_lm(folder, tokenizer) if has_lm(folder) else None
    return {
        "name": name,
        "parameters": _parameters(model),
        "disk_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "vocabulary": len(tokenizer),
        "frame_ms": 1000 * config.frame_seconds,
        "chunk_ms": config.streaming.chunk_ms,
        "lookahead_ms": None if config.streaming.chunk_ms is None else model.encoder.lookahead_ms(config.streaming),
        "features": to_dict(config.features),
        "encoder": to_dict(config.encoder),
        "attention": to_dict(config.attention),
        "decoder": to_dict(config.decoder),
        "language_model": lm and {"parameters": _parameters(lm), **to_dict(lm.config)},
        "search": to_dict(config.search),
    }


def _parameters(module: Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def lines(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Nested plain values as text, one per line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from lines(value, indent + "  ")
        else:
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else value
            yield f"{indent}{name:{width}}  {shown}"


def _versions() -> dict[str, str]:
    import torch

    return {
        "spellstream": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchaudio": _distribution("torchaudio"),
        "libsndfile": _libsndfile(),
        "sounddevice": _distribution("sounddevice"),
        "portaudio": _portaudio(),
        "av": _distribution("av"),
    }


def _distribution(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return NOT_THERE


def _libsndfile() -> str:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        return f"cannot be loaded: {error}"
    return str(soundfile.__libsndfile_version__)


def _portaudio() -> str:
    try:
        import sounddevice
    except ImportError:
        return NOT_THERE
    except OSError as error:  # the package is installed, but not its library
        return f"cannot be loaded: {error}"
    version = str(sounddevice.get_portaudio_version()[1])
    return version.removeprefix("PortAudio ").partition(",")[0]


def _devices() -> dict[str, Any]:
    import torch

    from asr.model.fast import bf16, int8

    units = [("VNNI", int8.vnni()), ("AMX", bf16.amx())]
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "cpu": _cpu(),
        "cpu_kernels": [torch.backends.cpu.get_cpu_capability(), *(name for name, there in units if there)],
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": [
            f"{torch.cuda.get_device_name(gpu)} ({torch.cuda.get_device_properties(gpu).total_memory / 2**30:.0f} GiB)"
            for gpu in gpus
        ],
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
