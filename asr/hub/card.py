"""Model cards: README.md with the metadata block at its top that the hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from asr.errors import HubError
from asr.hub.snapshot import require_library

__all__ = ["CardFacts", "Rates", "card"]

_TASK, _TASK_NAME = "automatic-speech-recognition", "speech recognition"
_TAGS = ("speech", "streaming", "listen-attend-and-spell", "ctc")
_LIBRARY = "spellstream"
_PER_CENT = 100


class Rates(NamedTuple):
    """Error rates of the model on a set of recordings, as fractions."""

    dataset: str
    wer: float
    cer: float


@dataclass(frozen=True)
class CardFacts:
    """Content of a model card; None or empty fields leave the card's own values unchanged."""

    repository: str  # OWNER/NAME
    licence: str | None = None  # the hub's identifier: apache-2.0, cc-by-4.0, other
    languages: Sequence[str] = ()  # ISO 639-1
    tags: Sequence[str] = ()
    base_model: str | None = None  # OWNER/NAME of the model that this one was converted from
    rates: Sequence[Rates] = ()

    @property
    def name(self) -> str:
        return self.repository.rpartition("/")[2]


def card(written: str | None, body: str, facts: CardFacts) -> str:
    """A model card.

    Args:
        written: the model's existing card; its text is kept, and so are its settings where `facts` has none.
        body: the text, in Markdown, if there is no card yet.
        facts: values for the settings at the top.

    Raises:
        HubError: the settings of the existing card cannot be read.
        DependencyError: huggingface_hub is missing.
    """
    require_library()
    from huggingface_hub import ModelCard, ModelCardData

    try:
        found = ModelCard(body if written is None else written, ignore_metadata_errors=True)
    except Exception as error:  # any error of a YAML parser
        reason = " ".join(str(error).split())
        raise HubError(f"the settings at the top of README.md cannot be read: {reason}") from None
    settings: dict[str, Any] = found.data.to_dict()
    tags = [*(settings.get("tags") or ()), *_TAGS, *facts.tags]
    settings |= {"library_name": _LIBRARY, "pipeline_tag": _TASK, "tags": list(dict.fromkeys(tags))}
    if facts.licence is not None:
        settings["license"] = facts.licence
    if facts.languages:
        settings["language"] = list(facts.languages)
    if facts.base_model is not None:
        settings["base_model"] = facts.base_model
    if facts.rates:
        settings.pop("model-index", None)  # as the card had it, which these replace
        settings |= {"metrics": ["wer", "cer"], "model_name": facts.name, "eval_results": _results(facts.rates)}
    data = ModelCardData(**settings, ignore_metadata_errors=True)
    return f"---\n{data.to_yaml()}\n---\n\n{found.text.lstrip()}"


def _results(rates: Sequence[Rates]) -> list[Any]:
    """Both rates of each data set, in per cent as the hub shows them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=_TASK,
            task_name=_TASK_NAME,
            dataset_type=each.dataset.replace(" ", "-"),
            dataset_name=each.dataset,
            metric_type=kind,
            metric_name=kind.upper(),
            metric_value=round(_PER_CENT * value, 2),
        )
        for each in rates
        for kind, value in (("wer", each.wer), ("cer", each.cer))
    ]
