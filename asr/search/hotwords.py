"""Hotwords in the beam search: an automaton over tokens that gives a bonus inside a phrase and takes it back.

An automaton after Aho and Corasick 1975, with the bonuses of contextual biasing (Zhao et al. 2019). It is built of the
characters of the phrases, and a token goes through all of its characters at once: every spelling of a phrase in tokens
is found, and gets the same bonus.

What a text gains is defined word by word. Where phrases begin at a word, the longest that is said in full keeps its
bonus, and the next word after it is looked at; otherwise the next word is. Where the text so far breaks off inside a
phrase, its letters have a bonus until the phrase is said in full or not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from asr.errors import ConfigError
from asr.search.scorers import View
from asr.text.tokenizer import EOS, WORD_START, Tokenizer
from asr.writing.hotwords import Hotwords, Phrase

__all__ = ["Automaton", "HotwordScorer", "check_spelling"]

MAX_NODES = 500_000  # characters of all phrases together, those of a common beginning counted once


class _Bonus(NamedTuple):
    """What a phrase adds: its weight for each of so many letters."""

    weight: float
    letters: int


class _Step(NamedTuple):
    """Where a character leads, and what it adds."""

    node: int
    gain: float


class _Trie:
    """Phrases as a trie of characters, with what each of its nodes and its failures gains; node 0 is the root."""

    def __init__(self, phrases: dict[str, _Bonus]) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.held = [0.0]  # bonus inside a phrase
        self.full: list[float | None] = [None]  # bonus of a phrase that ends here
        for text, bonus in phrases.items():
            self._add(text, bonus)
        self.failure: list[_Step] = [_Step(0, 0.0)] * len(self.held)
        self._link()

    def _add(self, text: str, bonus: _Bonus) -> None:
        node, letters = 0, 0
        for character in text:
            letters = min(letters + (character != WORD_START), bonus.letters)
            after = self.children[node].get(character)
            if after is None:
                if len(self.held) >= MAX_NODES:
                    raise ConfigError(f"hotwords: they have more than {MAX_NODES} characters in all")
                after = self.children[node][character] = len(self.held)
                self.children.append({})
                self.held.append(0.0)
                self.full.append(None)
            node = after
            self.held[node] = max(self.held[node], bonus.weight * letters)
        self.full[node] = max(self.full[node] or 0.0, bonus.weight * letters)

    def _link(self) -> None:
        """For each node, what is left of its text where no phrase goes on from it: a node, and the bonus kept."""
        waiting = deque([0])
        while waiting:
            node = waiting.popleft()
            for character, child in self.children[node].items():
                waiting.append(child)
                full = self.full[node]
                if node == 0:
                    self.failure[child] = _Step(0, 0.0)
                elif full is not None and character == WORD_START:
                    self.failure[child] = _Step(self.step(0, WORD_START).node, full)
                else:
                    rest, kept = self.failure[node]
                    after, gain = self.step(rest, character)
                    self.failure[child] = _Step(after, kept + self.held[rest] + gain - self.held[after])

    def step(self, node: int, character: str) -> _Step:
        """Go on by a character."""
        before, kept = self.held[node], 0.0
        while (after := self.children[node].get(character)) is None and node:
            node, more = self._leave(node, character == WORD_START)
            kept += more
        after = after or 0
        return _Step(after, kept + self.held[after] - before)

    def leave(self, node: int, word_ends: bool) -> float:
        """The gain of leaving all phrases, at the end of a word or within one."""
        before, kept = self.held[node], 0.0
        while node:
            node, more = self._leave(node, word_ends)
            kept += more
        return kept - before

    def _leave(self, node: int, word_ends: bool) -> _Step:
        full = self.full[node]
        return _Step(0, full) if word_ends and full is not None else self.failure[node]

    def followers(self, node: int) -> set[str]:
        """Characters that lead from here, or from where a failure leads, to another node than the root does."""
        found: set[str] = set()
        while node:
            found |= self.children[node].keys()
            node = self.failure[node].node
        return found


class _TokenTrie:
    """The tokens of a vocabulary by their characters."""

    def __init__(self, pieces: Iterable[tuple[int, str]]) -> None:
        self.children: dict[str, _TokenTrie] = {}
        self.tokens: list[int] = []
        for token, piece in pieces:
            at = self
            for character in piece:
                at = at.children.setdefault(character, _TokenTrie(()))
            at.tokens.append(token)


@dataclass(frozen=True)
class Automaton:
    """Hotwords as tensors. Nodes are numbered from the root, 0.

    A token without an edge leaves all phrases; where it begins a word, it then goes from the root.
    """

    first: Tensor  # (nodes + 1,): where the edges of each node begin
    tokens: Tensor  # (edges,)
    targets: Tensor  # (edges,): the node after the token
    gains: Tensor  # (edges,): what the token adds
    within: Tensor  # (nodes,): gain of leaving within a word
    after: Tensor  # (nodes,): gain of leaving at the end of a word
    begins: Tensor  # (V,) bool: tokens that begin a word
    root_targets: Tensor  # (V,): the node after a token from the root
    root_gains: Tensor  # (V,)
    most: float  # the largest bonus of a phrase
    widest: int  # most edges of a node

    @classmethod
    def build(cls, hotwords: Hotwords, tokenizer: Tokenizer) -> Automaton:
        """Spell hotwords in the tokens of a model.

        Raises:
            ConfigError: a phrase has characters that the model cannot spell, or the phrases are too long in all.
        """
        trie = _Trie(_spelled(hotwords, tokenizer))
        by_character = _token_trie(tokenizer)

        edges = [list(_edges(trie, 0, by_character, {WORD_START}))]
        root_targets, root_gains = torch.zeros(len(tokenizer), dtype=torch.long), torch.zeros(len(tokenizer))
        root = dict(edges[0])
        for token, step in root.items():
            root_targets[token], root_gains[token] = step
        edges[0] = []  # they are in the tensors above
        for node in range(1, len(trie.held)):
            leaving = _Step(0, trie.leave(node, word_ends=True))
            found = []
            for token, step in _edges(trie, node, by_character, trie.followers(node)):
                begins = root.get(token, _Step(0, 0.0))
                usual = step.node == begins.node and math.isclose(step.gain, leaving.gain + begins.gain, abs_tol=1e-9)
                if not (usual and tokenizer.word_starts[token]):
                    found.append((token, step))
            edges.append(found)

        flat = [edge for some in edges for edge in some]
        counts = torch.tensor([len(some) for some in edges])
        return cls(
            first=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
            tokens=torch.tensor([token for token, _ in flat], dtype=torch.long),
            targets=torch.tensor([step.node for _, step in flat], dtype=torch.long),
            gains=torch.tensor([step.gain for _, step in flat], dtype=torch.float32),
            within=torch.tensor([trie.leave(node, word_ends=False) for node in range(len(trie.held))]),
            after=torch.tensor([trie.leave(node, word_ends=True) for node in range(len(trie.held))]),
            begins=torch.tensor(tokenizer.word_starts),
            root_targets=root_targets,
            root_gains=root_gains,
            most=max(full for full in trie.full if full is not None),
            widest=int(counts.max()),
        )

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def walk(self, node: int, tokens: Iterable[int]) -> int:
        """The node after tokens."""
        for token in tokens:
            edges = slice(int(self.first[node]), int(self.first[node + 1]))
            match = (self.tokens[edges] == token).nonzero()
            if len(match):
                node = int(self.targets[edges][match[0, 0]])
            else:
                node = int(self.root_targets[token]) if self.begins[token] else 0
        return node


def check_spelling(phrase: Phrase, tokenizer: Tokenizer) -> None:
    """Refuse a phrase that the tokens of a model cannot spell.

    Raises:
        ConfigError: names the phrase and the characters.
    """
    known = _alphabet(tokenizer)
    for said in phrase.spoken:
        if unknown := sorted(set(said) - known - {" "}):
            raise ConfigError(f"hotword {phrase.text!r}: the model cannot spell {', '.join(map(repr, unknown))}")


@lru_cache(maxsize=8)
def _token_trie(tokenizer: Tokenizer) -> _TokenTrie:
    return _TokenTrie((token, tokenizer.piece(token)) for token in range(EOS + 1, len(tokenizer)))


@lru_cache(maxsize=8)
def _alphabet(tokenizer: Tokenizer) -> frozenset[str]:
    return frozenset(character for token in range(EOS + 1, len(tokenizer)) for character in tokenizer.piece(token))


def _spelled(hotwords: Hotwords, tokenizer: Tokenizer) -> dict[str, _Bonus]:
    """Spoken forms of the phrases as the characters of tokens, and the same with 's, which adds nothing.

    Raises:
        ConfigError: names the first phrase that cannot be spelled, and its characters.
    """
    endings = ("", "'s") if {"'", "s"} <= _alphabet(tokenizer) else ("",)
    spelled: dict[str, _Bonus] = {}
    for phrase in hotwords.phrases:
        check_spelling(phrase, tokenizer)
        for said in phrase.spoken:
            bonus = _Bonus(phrase.weight, len(said) - said.count(" "))
            for ending in endings:
                text = f"{WORD_START}{said.replace(' ', WORD_START)}{ending}"
                spelled[text] = max(spelled.get(text, bonus), bonus)
    return spelled


def _edges(trie: _Trie, node: int, tokens: _TokenTrie, first: set[str]) -> Iterable[tuple[int, _Step]]:
    """Tokens that begin with one of the characters `first` and do not end at the root, with where they lead."""
    waiting = [(tokens, _Step(node, 0.0), first)]
    while waiting:
        place, (at, gain), characters = waiting.pop()
        for character in characters & place.children.keys():
            after, more = trie.step(at, character)
            if after:  # at the root, the rest of the token gains nothing: that is what a token without an edge does
                step, child = _Step(after, gain + more), place.children[character]
                for token in child.tokens:
                    yield token, step
                waiting.append((child, step, set(child.children)))


class HotwordState(NamedTuple):
    """State of `HotwordScorer`; rows are hypotheses."""

    nodes: Tensor  # (N,): before the last token
    owners: Tensor  # (N,): the utterance of each hypothesis

    def select(self, rows: Tensor) -> HotwordState:
        return HotwordState(*(x.index_select(0, rows) for x in self))


class HotwordScorer:
    """Bonuses of hotwords, with a list, or none, for each utterance.

    Args:
        automata: of each utterance; None: it has no hotwords.
        device: where the search runs.
        known: `(utterances,)` nodes after the known tokens but the last; None: there are none.
    """

    def __init__(
        self, automata: Sequence[Automaton | None], device: torch.device, known: Sequence[int] | None = None
    ) -> None:
        distinct = list({id(a): a for a in automata if a is not None}.values())
        place = {id(a): i for i, a in enumerate(distinct)}

        # One table of all lists, each with its first node and first edge; after the last, a node of its own for those
        # without a list, from which nothing leads anywhere.
        nodes, edges = 0, 0
        starts, firsts, targets, root_targets = [], [], [], []
        for automaton in distinct:
            starts.append(nodes)
            firsts.append(automaton.first[:-1] + edges)
            targets.append(automaton.targets + nodes)
            root_targets.append(automaton.root_targets + nodes)
            nodes, edges = nodes + len(automaton.within), edges + len(automaton.tokens)
        self._first = torch.cat([*firsts, torch.tensor([edges, edges])]).to(device)
        nothing = torch.zeros(1)
        self._tokens = torch.cat([*(a.tokens for a in distinct), nothing.long()]).to(device)
        self._targets = torch.cat([*targets, nothing.long()]).to(device)
        self._gains = torch.cat([*(a.gains for a in distinct), nothing]).to(device)
        self._within = torch.cat([*(a.within for a in distinct), nothing]).to(device)
        self._after = torch.cat([*(a.after for a in distinct), nothing]).to(device)
        self._begins = distinct[0].begins.to(device)
        size = len(distinct[0].begins)
        self._root_targets = torch.stack([*root_targets, torch.full((size,), nodes)]).to(device)
        self._root_gains = torch.stack([*(a.root_gains for a in distinct), torch.zeros(size)]).to(device)
        self._width = torch.arange(max(1, *(a.widest for a in distinct)), device=device)

        lists = [len(distinct) if a is None else place[id(a)] for a in automata]
        roots = [*starts, nodes]
        known = known or [0] * len(automata)
        self._list = torch.tensor(lists, device=device)  # of each utterance
        self._root = torch.tensor([roots[one] for one in lists], device=device)
        self._known = torch.tensor(list(known), device=device)
        self.most = torch.tensor([0.0 if a is None else a.most for a in automata], device=device)

    def initial_state(self, owners: Tensor) -> HotwordState:
        return HotwordState((self._root + self._known)[owners], owners)

    def score(self, view: View, state: HotwordState) -> tuple[Tensor, HotwordState]:
        nodes, owners = self._advance(state, view.last), state.owners
        tokens, edges, exists = self._edges(nodes)
        scores = self._after[nodes][:, None] + self._root_gains[self._list[owners]]
        scores = torch.where(self._begins, scores, self._within[nodes][:, None])
        scores[:, EOS] = self._after[nodes]
        # Places without an edge write to a column beyond the vocabulary, which is cut off.
        size = scores.shape[1]
        wide = torch.nn.functional.pad(scores, (0, 1))
        wide.scatter_(1, torch.where(exists, tokens, size), self._gains[edges])
        return wide[:, :size], HotwordState(nodes, owners)

    def select(self, state: HotwordState, rows: Tensor) -> HotwordState:
        return state.select(rows)

    def _advance(self, state: HotwordState, last: Tensor) -> Tensor:
        """The nodes after the tokens `last` `(N,)`."""
        tokens, edges, exists = self._edges(state.nodes)
        match = exists & (tokens == last[:, None])
        target = (self._targets[edges] * match).sum(1)
        begun, root = self._root_targets[self._list[state.owners], last], self._root[state.owners]
        fallen = torch.where(self._begins[last], begun, root)
        return torch.where(match.any(1), target, fallen)

    def _edges(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each node, `(N, widest)` its edges' tokens and numbers, and which of them there are."""
        first = self._first[nodes][:, None]
        exists = first + self._width < self._first[nodes + 1][:, None]
        edges = (first + self._width).clamp(max=len(self._tokens) - 1)
        return self._tokens[edges], edges, exists
