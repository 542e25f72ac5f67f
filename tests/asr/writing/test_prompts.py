"""Hotwords from prompts."""

from __future__ import annotations

import pytest

from asr.writing.prompts import MAX_PROMPT_PHRASES, phrases_of_prompt


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("", []),
        (" , ;!", []),
        ("Nextcloud, Siobhán:3;ACME Corp.\nNextcloud", ["Nextcloud", "Siobhán:3", "ACME Corp"]),
        ("Siobhán", ["Siobhán"]),
        (
            "The team meets Siobhán O'Brien about Nextcloud and kubectl; then they go home with Nextcloud.",
            ["Siobhán O'Brien", "Nextcloud", "kubectl"],
        ),
        ("this is what we will talk about in the meeting of today", []),
    ],
)
def test_names_are_found(prompt: str, phrases: list[str]) -> None:
    assert phrases_of_prompt(prompt) == phrases


def test_prompts_are_bounded() -> None:
    assert len(phrases_of_prompt(" ".join(f"Zorg{n}" for n in range(100_000)))) <= MAX_PROMPT_PHRASES
    assert len(phrases_of_prompt(",".join(f"z{n}" for n in range(100_000)))) == MAX_PROMPT_PHRASES
