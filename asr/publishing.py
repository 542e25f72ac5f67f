"""A model's folder in the form that the hub expects: checked, with a card and checksums. Nothing is uploaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr import checkpoint
from asr.errors import CheckpointError, DataError
from asr.files import write_atomically
from asr.folders import CARD, FILES, origin
from asr.hub import CHECKSUMS, Reference, is_reference
from asr.hub.card import CardFacts, Rates, card
from asr.hub.listing import sha256

__all__ = ["publish", "read_rates"]

_ATTRIBUTES = ".gitattributes"
_LFS = ("*.safetensors", "*.model")  # stored by LFS, since git would keep every version in each clone


def publish(name: str | Path, output: Path, facts: CardFacts) -> list[str]:
    """Write the files of a model, its card, `SHA256SUMS` and `.gitattributes` to a new folder.

    Args:
        name: the model, as for `asr.folders.find`; all of its parts are loaded as a check.
        output: a folder that does not exist or is empty.
        facts: content of the card.

    Returns:
        Facts missing from the card, one sentence each.

    Raises:
        CheckpointError: the model is missing or broken, or `output` has files.
        HubError: the settings of the model's own card cannot be read.
        DataError: a file cannot be written.
        DependencyError: huggingface_hub is missing.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: already exists; choose a new or an empty folder")
    loaded = checkpoint.load(name)
    folder = loaded.folder
    if checkpoint.has_lm(folder):
        checkpoint.load_lm(folder, loaded.tokenizer)
    if checkpoint.has_punctuation(folder):
        checkpoint.load_punctuation(folder)

    facts = _with_source(facts, origin(folder))
    own = folder / CARD
    written = own.read_text(encoding="utf-8", errors="replace") if own.is_file() else None
    text = card(written, _body(loaded, facts), facts)
    _write(folder, output, text)
    return _missing(text)


def _write(folder: Path, output: Path, text: str) -> None:
    """Write the model's files with the card `text`, checksums and attributes."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            if file not in (CARD, CHECKSUMS) and (folder / file).is_file():
                shutil.copyfile(folder / file, output / file)
    except OSError as error:
        raise DataError(f"{error.filename or output}: {error.strerror or error}") from error
    write_atomically(output / CARD, text)
    write_atomically(output / _ATTRIBUTES, "".join(f"{each} filter=lfs diff=lfs merge=lfs -text\n" for each in _LFS))
    # Without the card, which may be edited on the hub.
    listed = sorted(path for path in output.iterdir() if path.name in FILES and path.name != CARD)
    write_atomically(output / CHECKSUMS, "".join(f"{sha256(path)}  {path.name}\n" for path in listed))


def read_rates(path: Path) -> list[Rates]:
    """Error rates by corpus from the output of `spellstream evaluate --json`.

    Raises:
        DataError: the file cannot be read, or is not of this form.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rates = [_rates(each) for each in found["summaries"]]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        rates = []
    if not rates:
        raise DataError(f"{path}: no error rates in the format of spellstream evaluate --json")
    return rates


def _rates(summary: dict[str, Any]) -> Rates:
    words, characters = (float(summary[kind]["rate"]) for kind in ("words", "characters"))
    return Rates(str(summary["name"]), words, characters)


def _with_source(facts: CardFacts, source: dict[str, Any]) -> CardFacts:
    """The facts with the licence and the repository of an imported model."""
    name, licence = str(source.get("source")), source.get("licence")
    base = Reference.parse(name).repository if is_reference(name) else None
    return replace(
        facts,
        licence=facts.licence or (None if licence is None else str(licence)),
        base_model=facts.base_model or base,
    )


def _body(loaded: checkpoint.Checkpoint, facts: CardFacts) -> str:
    """The text of a card for a model that has none."""
    model, folder, config = loaded.model, loaded.folder, loaded.model.config
    parameters = sum(each.numel() for each in model.parameters()) / 1e6
    source = origin(folder)
    rows = {
        "encoder": f"{len(config.encoder.joins)} LSTM layers of {config.encoder.hidden_size}, "
        f"{'in both directions' if config.encoder.bidirectional else 'forward'}; "
        f"a frame for every {1000 * config.frame_seconds:.0f} ms",
        "decoder": f"{config.attention.scorer} attention, {config.decoder.cell.upper()} of "
        f"{config.decoder.hidden_size}, and a CTC head on the encoder",
        "tokens": f"{config.vocab_size} (sentencepiece)",
        "parameters": f"{parameters:.1f} million",
        "language model": "yes" if checkpoint.has_lm(folder) else "no",
        "punctuation and capitals": "yes" if checkpoint.has_punctuation(folder) else "no",
    }
    if source:
        revision = f", revision {source['revision']}" if source.get("revision") else ""
        rows["converted from"] = f"{source.get('source')} ({source.get('toolkit')}){revision}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    usage = (
        f"```sh\npip install 'spellstream[hub]'\nspellstream transcribe talk.wav --model hub:{facts.repository}\n```"
    )
    head = f"# {facts.name}\n\nSpeech recognition for files and live streams, 16 kHz."
    return f"{head}\n\n| | |\n|---|---|\n{table}\n\n{usage}\n"


def _missing(text: str) -> list[str]:
    """Advice on settings missing at the top of a card."""
    settings = text.split("\n---\n", 1)[0].splitlines()
    advice = {
        "license": "the card names no licence: give --licence",
        "language": "the card names no language: give --language",
        "model-index": "the card has no error rates: give --metrics",
    }
    return [said for key, said in advice.items() if not any(line.startswith(f"{key}:") for line in settings)]
