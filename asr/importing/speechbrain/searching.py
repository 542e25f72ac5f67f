"""Conversion of the search in a SpeechBrain recipe to our config."""

from __future__ import annotations

import itertools
from typing import Any

from asr.config import SearchConfig
from asr.importing.speechbrain.hyperparams import Call, Hyperparams

__all__ = ["Search"]

_SEARCHERS = ("S2SRNNBeamSearcher", "S2SRNNBeamSearchLM", "S2SRNNGreedySearcher")
_WEIGHTS = {"rnnlm": "lm_weight", "transformerlm": "lm_weight", "ctc": "ctc_weight", "coverage": "coverage_penalty"}
_LEAST_CANDIDATES = 16  # of the CTC scorer
# SpeechBrain has no margin, and keeps hypotheses that can no longer win: 80 in its models for LibriSpeech. With this
# margin the word error rate is the same, in 0.6 of the time (recipes/benchmark/imported.py).
_MARGIN = 6.0

_COVERAGE_THRESHOLD = 0.5  # SpeechBrain's default

# Arguments of a search that are known from elsewhere, have no counterpart, or rarely matter.
_UNUSED = (
    *("embedding", "decoder", "linear", "ctc_linear", "language_model", "scorer"),
    *("bos_index", "eos_index", "blank_index", "min_decode_ratio", "using_max_attn_shift", "max_attn_shift"),
    *("minus_inf", "topk", "return_topk", "ctc_window_size", "ctc_score_mode"),
)


class Search:
    """The search of a recipe: the one for tests if there are several."""

    def __init__(self, params: Hyperparams) -> None:
        self.params = params
        found = params.calls(*_SEARCHERS)
        self.key = next((key for key in ("test_search", "decoder", *found) if key in found), "")
        self.call = found.get(self.key)

    def argument(self, name: str) -> Any:
        """An argument as written; None if absent."""
        arguments = self.call.arguments if self.call is not None else None
        return arguments.get(name) if isinstance(arguments, dict) else None

    def config(self, frame_seconds: float, has_lm: bool) -> SearchConfig:
        """The settings of our search; `frame_seconds` is the duration of a frame of the encoder output."""
        if self.call is None:
            return SearchConfig(ctc_weight=0.0)
        key = self.key
        known = {
            "max_decode_ratio": 1.0,
            "beam_size": 1 if self.call.name == "S2SRNNGreedySearcher" else 8,
            "eos_threshold": 1.5,
            "using_eos_threshold": True,
            "length_normalization": True,
            "temperature": 1.0,
            "temperature_lm": 1.0,
            "lm_weight": 0.0,
            "ctc_weight": 0.0,
            "coverage_penalty": 0.0,
        }
        given = self.params.arguments(self.call, key, known, _UNUSED)
        given, threshold, scale = self._scorers(given)
        beam = self.params.integer(given, key, "beam_size")
        ctc, temperature = self.params.number(given, key, "ctc_weight"), self.params.number(given, key, "temperature")
        return SearchConfig(
            beam_size=beam,
            beam_margin=_MARGIN,
            ctc_weight=ctc,
            lm_weight=self.params.number(given, key, "lm_weight") if has_lm else 0.0,
            coverage_penalty=self.params.number(given, key, "coverage_penalty"),
            coverage_threshold=threshold,
            coverage_mean=True,
            eos_threshold=self.params.number(given, key, "eos_threshold") if given["using_eos_threshold"] else 0.0,
            candidates=max(_LEAST_CANDIDATES, scale * beam),
            max_tokens_per_second=self.params.number(given, key, "max_decode_ratio") / frame_seconds,
            temperature=temperature or 1.0,  # greedy search writes 0, for the most likely token
            lm_temperature=self.params.number(given, key, "temperature_lm"),
            length_normalisation=bool(given["length_normalization"]),
        )

    def _scorers(self, given: dict[str, Any]) -> tuple[dict[str, Any], float, int]:
        """The arguments of a search with its scorers' weights; the coverage threshold; candidates per beam."""
        builder = self.params.resolved(self.argument("scorer"), f"{self.key}.scorer")
        if not isinstance(builder, Call):
            return given, _COVERAGE_THRESHOLD, 2
        known = {"weights": {}, "full_scorers": [], "partial_scorers": [], "scorer_beam_scale": 2}
        built = self.params.arguments(builder, "scorer", known)
        if not isinstance(built["weights"], dict):
            raise self.params.error("scorer.weights: expected a weight for each name")
        given, threshold = dict(given), _COVERAGE_THRESHOLD
        for name, value in built["weights"].items():
            weight = self.params.resolved(value, f"scorer.weights.{name}")
            if name in _WEIGHTS:
                given[_WEIGHTS[name]] = weight
            elif weight:
                raise self.params.error(f"scorer.weights.{name} is not understood")
        lists = [built[name] or [] for name in ("full_scorers", "partial_scorers")]
        if not all(isinstance(scorers, list) for scorers in lists):
            raise self.params.error("scorer.full_scorers, scorer.partial_scorers: expected lists")
        for scorer in itertools.chain(*lists):
            call = self.params.resolved(scorer, "scorer")
            if isinstance(call, Call) and call.name == "RNNLMScorer":
                given["temperature_lm"] = self._argument(call, "temperature", 1.0)
            if isinstance(call, Call) and call.name == "CoverageScorer":
                found = {"threshold": self._argument(call, "threshold", _COVERAGE_THRESHOLD)}
                threshold = self.params.number(found, call.name, "threshold")
        return given, threshold, self.params.integer(built, "scorer", "scorer_beam_scale")

    def _argument(self, call: Call, name: str, default: float) -> Any:
        arguments = call.arguments if isinstance(call.arguments, dict) else {}
        return self.params.resolved(arguments.get(name, default), f"{call.name}.{name}")
