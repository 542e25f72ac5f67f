"""Option names of other programs: synonyms of ours, and hints for those without an equivalent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

__all__ = ["hint", "understood"]

# Options of whisper that have another name here.
_SYNONYMS = {
    "--output-format": "--format",
    "--max-line-count": "--max-lines",
    "--max-words-per-line": "--max-words",
}
# Options of whisper, faster-whisper and others that have no equivalent here, and what to use in their place.
_HINTS = {
    "--best-of": "use --beam-size",
    "--compute-type": "use --dtype",
    "--condition-on-previous-text": "segments are decoded independently",
    "--fp16": "use --dtype float16",
    "--initial-prompt": "use --hotwords for names and terms",
    "--model-dir": "use --model with a folder",
    "--overwrite-output": "use --overwrite",
    "--patience": "use --beam-size",
    "--print-progress": "progress is shown unless --quiet is given",
    "--task": "speech is transcribed, never translated",
    "--temperature": "the search is deterministic; use --beam-size",
    "--vad-filter": "silence is always left out",
    "--verbose": "use --quiet for less",
}


def understood(arguments: Sequence[str], options: Collection[str], flags: Collection[str]) -> list[str]:
    """The arguments with our option names: `--output_format srt` becomes `--format srt`.

    A flag with an underscore may be followed by True or False, as in `--word_timestamps True`.

    Args:
        arguments: of one command.
        options: the names of all its options.
        flags: the names of those that take no value.
    """
    spelled: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*spelled, argument, *rest]
        given, equals, value = argument.partition("=")
        name = _SYNONYMS.get(given.replace("_", "-"), given.replace("_", "-"))
        if not given.startswith("--") or given in options or name not in options:
            spelled.append(argument)
        elif name in flags and "_" in given and rest and rest[0] in ("True", "False"):
            spelled += [name] if rest.pop(0) == "True" else [f"--no-{name[2:]}"] * (f"--no-{name[2:]}" in flags)
        else:
            spelled.append(name + equals + value)
    return spelled


def hint(option: str, known: Collection[str]) -> str:
    """A suggestion in place of an unknown option; empty if there is none."""
    dashed = option.partition("=")[0].replace("_", "-").lower()
    if dashed in _HINTS:
        return _HINTS[dashed]
    name = _SYNONYMS.get(dashed, dashed)
    close = get_close_matches(name, known, n=2, cutoff=0.7) or [one for one in known if one.startswith(name)][:2]
    return f"did you mean {' or '.join(close)}?" if close else ""
