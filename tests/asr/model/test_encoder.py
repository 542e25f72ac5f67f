"""The encoder: chunks equal the whole, rows do not depend on their batch, and nothing beyond the lookahead matters."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.config import Context, EncoderConfig, FrontConfig, HybridConfig
from asr.errors import ConfigError
from asr.model.encoder import Encoder, EncoderState
from tests.support.model_parts import TOLERANCE, unsettle

MELS, HOP_MS = 6, 10.0
BASE = EncoderConfig(joins=(2, 2, 1), hidden_size=8)
CONFIGS = {
    "base": BASE,
    "one layer": EncoderConfig(joins=(2,), hidden_size=8),
    "joins 3, 2, 1": EncoderConfig(joins=(3, 2, 1), hidden_size=8),
    "no reduction": EncoderConfig(joins=(1, 1), hidden_size=8),
    "reduction 8": EncoderConfig(joins=(2, 2, 2), hidden_size=8, normalisation="none"),
    "batch norm": dataclasses.replace(BASE, normalisation="batch"),
    "no norm": dataclasses.replace(BASE, normalisation="none"),
    "residual": EncoderConfig(joins=(4, 1, 1), hidden_size=8, residual=True),
    "unidirectional": dataclasses.replace(BASE, bidirectional=False),
    "unidirectional hybrid": dataclasses.replace(BASE, bidirectional=False, hybrid=HybridConfig(1, 2, 5)),
    "hybrid, no positions": dataclasses.replace(BASE, hybrid=HybridConfig(1, 2, 6, "none")),
    "hybrid, sinusoidal": dataclasses.replace(BASE, hybrid=HybridConfig(1, 2, 6, "sinusoidal")),
    "two hybrids, rotary": dataclasses.replace(BASE, hybrid=HybridConfig(2, 2, 6, "rotary")),
    "front": EncoderConfig((1, 1), 8, normalisation="none", front=FrontConfig((3, 4), (1, 4), (2, 1))),
    "front that projects, joins, dense layers": EncoderConfig(
        (2, 1),
        8,
        front=FrontConfig((3,), (2,), (2,), 5, 1, projection_size=7),
        projection_size=6,
        dense_layers=2,
        dense_size=10,
    ),
    "front without LSTMs that look ahead": EncoderConfig(
        (1,), 8, False, front=FrontConfig((2,), (3,), (1,), 3, 3, "none")
    ),
    "batch norm, residual, hybrid": EncoderConfig((2, 1), 8, True, 0.1, True, "batch", HybridConfig(1, 4, 3)),
}
CONTEXTS = {
    "causal": Context.causal(),
    "160 + 40 ms": Context(160, 40),
    "100 + 70 ms": Context(100, 70),  # not a whole number of frames in any layer
    "80 + 200 ms": Context(80, 200),  # a lookahead longer than the chunk
    "320 + 0 ms": Context(320, 0),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
every_context = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())


def build(config: EncoderConfig, seed: int = 0) -> Encoder:
    """An encoder in evaluation mode; its weights and statistics are large enough for every input to matter."""
    torch.manual_seed(seed)
    encoder = Encoder(config, MELS, HOP_MS)
    unsettle(encoder)
    return encoder.eval()


def sequence(frames: int, rows: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(rows, frames, MELS, generator=torch.Generator().manual_seed(seed))


def whole(encoder: Encoder, features: Tensor, context: Context | None) -> Tensor:
    rows, frames, _ = features.shape
    with torch.inference_mode():
        return encoder(features, torch.full((rows,), frames), context)[0]


def in_pieces(encoder: Encoder, features: Tensor, context: Context, cuts: list[int]) -> Tensor:
    """Encoder output of the pieces between `cuts`, one step each; the last one is final."""
    state, found = encoder.initial_state(len(features)), []
    edges = [0, *cuts, features.shape[1]]
    with torch.inference_mode():
        for start, stop in itertools.pairwise(edges):
            out, state = encoder.step(features[:, start:stop], state, context, final=False)
            found.append(out)
        out, state = encoder.step(features[:, :0], state, context, final=True)
    return torch.cat([*found, out], dim=1)


@every_context
@every_config
def test_chunks_of_features_equal_the_whole(config: EncoderConfig, context: Context) -> None:
    """Chunks from one frame to two seconds, with an incomplete last chunk, equal the whole."""
    encoder = build(config)
    for frames, chunk in ((83, 1), (83, 7), (213, 32), (213, 200)):
        features = sequence(frames)
        expected = whole(encoder, features, context)
        assert expected.shape == (1, encoder.frames(frames), config.output_size)
        found = in_pieces(encoder, features, context, list(range(chunk, frames, chunk)))
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE, msg=lambda m, c=chunk: f"chunk {c}: {m}")


@settings(max_examples=40)
@given(
    frames=st.integers(0, 70),
    cuts=st.lists(st.integers(0, 70), max_size=8),
    name=st.sampled_from(sorted(CONFIGS)),
    chunk_ms=st.integers(1, 300),
    lookahead_ms=st.integers(0, 150),
)
def test_any_cuts_in_any_context_equal_the_whole(
    frames: int, cuts: list[int], name: str, chunk_ms: int, lookahead_ms: int
) -> None:
    """Any cuts, with empty pieces and empty input, equal the whole."""
    encoder, features, context = build(CONFIGS[name]), sequence(frames), Context(chunk_ms, lookahead_ms)
    found = in_pieces(encoder, features, context, sorted(min(cut, frames) for cut in cuts))
    torch.testing.assert_close(found, whole(encoder, features, context), rtol=0, atol=TOLERANCE)


def test_the_last_piece_may_be_the_final_one() -> None:
    """A final step with features equals the same step followed by an empty final step."""
    encoder, features, context = build(BASE), sequence(50), Context(160, 40)
    first, state = encoder.step(features[:, :30], encoder.initial_state(1), context)
    last, state = encoder.step(features[:, 30:], state, context, final=True)
    expected = whole(encoder, features, context)
    torch.testing.assert_close(torch.cat([first, last], dim=1), expected, rtol=0, atol=TOLERANCE)


@every_config
@pytest.mark.parametrize("frames", [1, 83, 120])
def test_a_preview_is_the_whole_so_far_and_can_be_gone_on_from(config: EncoderConfig, frames: int) -> None:
    """A preview equals the whole so far; the frames after its state equal those of the whole, wherever it is taken."""
    encoder, features = build(config), sequence(frames)
    expected = whole(encoder, features, None)
    last = max(0, expected.shape[1] - 1)
    with torch.inference_mode():
        for noted in {0, min(1, last), last}:
            found, state = encoder.preview(features, encoder.initial_state(1), noted)
            torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
            rest, state = encoder.preview(features[:, noted * config.reduction :], state, 0)
            torch.testing.assert_close(rest, expected[:, noted:], rtol=0, atol=TOLERANCE)
        nothing, _ = encoder.preview(features[:, :0], state, 0)
        assert nothing.shape == (1, 0, config.output_size)


@every_config
@torch.inference_mode()
def test_previews_of_several_lengths_are_one_batch(config: EncoderConfig) -> None:
    """Each row of a padded batch has the output and the state that it has alone."""
    encoder, features, lengths = build(config), torch.randn(4, 40, MELS), [40, 1, 23, 8]
    features *= (torch.arange(40) < torch.tensor(lengths)[:, None])[..., None]
    if not encoder.pads:
        with pytest.raises(ValueError, match="equal length"):
            encoder.preview(features, encoder.initial_state(4), 0, torch.tensor(lengths))
        return
    together, _ = encoder.preview(features, encoder.initial_state(4), 0, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone, _ = encoder.preview(features[row : row + 1, :length], encoder.initial_state(1), 0)
        torch.testing.assert_close(together[row : row + 1, : alone.shape[1]], alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("rows", [3, 16])
@pytest.mark.parametrize(
    "context", [Context.full(), Context(100, 70), Context.causal()], ids=["full", "bounded", "causal"]
)
@every_config
def test_a_row_is_the_same_alone_and_in_a_padded_batch(config: EncoderConfig, context: Context, rows: int) -> None:
    """Padding does not affect a row's output, which is zero beyond its length."""
    encoder = build(config)
    lengths = torch.tensor([61, 0, 1] if rows == 3 else [61, *range(1, 58, 4)])
    features = sequence(61, rows)
    features = features * (torch.arange(61) < lengths[:, None])[..., None]
    with torch.inference_mode():
        together, found = encoder(features, lengths, context)
    assert found.tolist() == [encoder.frames(n) for n in lengths.tolist()]
    for row, (frames, out) in enumerate(zip(lengths.tolist(), found.tolist(), strict=True)):
        assert not together[row, out:].any()
        if row % 3 == 1 and rows == 16:
            continue  # other lengths give much the same, and the suite stays quick
        alone = whole(encoder, features[row : row + 1, :frames], context)[0]
        torch.testing.assert_close(together[row, :out], alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["two hybrids, rotary", "front"])
def test_streams_stepped_together_do_not_mix(name: str) -> None:
    encoder, features, context = build(CONFIGS[name]), sequence(90, rows=3), Context(160, 40)
    together = in_pieces(encoder, features, context, [13, 50])
    for row in range(3):
        alone = in_pieces(encoder, features[row : row + 1], context, [13, 50])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=TOLERANCE)


def test_batch_normalisation_learns_from_valid_frames_alone() -> None:
    """The running statistics after a training step are the same with and without padding."""
    statistics = []
    for padding in (0, 40):
        encoder = build(dataclasses.replace(CONFIGS["batch norm"], dropout=0.0)).train()
        features = torch.nn.functional.pad(sequence(32), (0, 0, 0, padding))
        encoder(features, torch.tensor([32]))
        statistics.append({name: x for name, x in encoder.state_dict().items() if "running" in name})
    for name, value in statistics[0].items():
        torch.testing.assert_close(statistics[1][name], value, msg=name)


def chunk_frames(encoder: Encoder, context: Context) -> int:
    """Number of output frames per chunk."""
    together = encoder.config.bidirectional or encoder.config.hybrid.layers
    return -(-int(context.chunk_ms or 0) // int(encoder.frame_ms)) if together else 1


def latest_frame(encoder: Encoder, context: Context, out: int) -> int:
    """The first feature frame that must not affect output frame `out`, by the encoder's lookahead."""
    chunk = chunk_frames(encoder, context)
    chunk_end_ms = (out // chunk + 1) * chunk * encoder.frame_ms
    return round((chunk_end_ms + encoder.lookahead_ms(context)) / HOP_MS)


@every_context
@every_config
def test_what_lies_beyond_the_lookahead_never_changes_an_output(config: EncoderConfig, context: Context) -> None:
    """`lookahead_ms` is a promise about latency: no later feature changes an output frame."""
    encoder, features = build(config), sequence(240)
    outs = (0, 3, 9)
    edges = [latest_frame(encoder, context, out) for out in outs]
    assert max(edges) < 240
    rows = [torch.cat([features[:, :edge], 5 * sequence(240 - edge, seed=9)], dim=1) for edge in edges]
    before, *after = whole(encoder, torch.cat([features, *rows]), context)
    for out, changed in zip(outs, after, strict=True):
        torch.testing.assert_close(changed[: out + 1], before[: out + 1], rtol=0, atol=1e-6)
        assert not torch.allclose(changed, before, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("base", Context(160, 40)),
        ("base", Context(80, 200)),
        ("base", Context(160, 0)),
        ("base", Context.causal()),
        ("one layer", Context(160, 40)),
        ("unidirectional", Context(160, 40)),
        ("unidirectional hybrid", Context(160, 40)),
    ],
)
def test_lookahead_is_not_more_than_it_must_be(name: str, context: Context) -> None:
    """Where chunks are whole frames in every layer, the last feature frame of the lookahead does matter."""
    encoder, features = build(CONFIGS[name]).double(), sequence(240).double()
    chunk = chunk_frames(encoder, context)
    changed = features.clone()
    changed[:, latest_frame(encoder, context, 0) - 1] += 50
    before, after = whole(encoder, features, context), whole(encoder, changed, context)
    assert not torch.equal(after[:, :chunk], before[:, :chunk])


def test_what_was_given_out_is_the_final_output() -> None:
    """A frame that `step` returned is final: no continuation of the audio changes it."""
    encoder, context = build(BASE), Context(160, 40)
    start = sequence(100)
    early, _ = encoder.step(start, encoder.initial_state(1), context)
    assert early.shape[1] > 0
    for seed in (1, 2):
        full = whole(encoder, torch.cat([start, sequence(60, seed=seed)], dim=1), context)
        torch.testing.assert_close(full[:, : early.shape[1]], early, rtol=0, atol=TOLERANCE)


@every_context
@every_config
def test_output_arrives_as_soon_as_the_lookahead_says(config: EncoderConfig, context: Context) -> None:
    """No frame is held back for longer than `lookahead_ms` after its chunk."""
    encoder, features = build(config), sequence(240)
    for out in (0, 3, 9):
        edge = latest_frame(encoder, context, out)
        with torch.inference_mode():
            found, _ = encoder.step(features[:, :edge], encoder.initial_state(1), context)
        assert found.shape[1] > out


def test_more_context_is_not_the_same_as_less() -> None:
    """With the same weights, full, bounded and causal contexts give different outputs."""
    encoder, features = build(BASE), sequence(64)
    outs = [whole(encoder, features, c) for c in (None, Context(160, 40), Context(160, 0), Context.causal())]
    for a, b in itertools.combinations(outs, 2):
        assert not torch.allclose(a, b, atol=1e-2)


def test_a_chunk_longer_than_the_utterance_is_full_context() -> None:
    encoder, features = build(BASE), sequence(64)
    torch.testing.assert_close(whole(encoder, features, Context(10_000, 0)), whole(encoder, features, None))


def elements(state: Any) -> int:
    """Number of elements in the storage that a state keeps alive."""
    if isinstance(state, Tensor):
        return max(state.numel(), state.untyped_storage().nbytes() // state.element_size())
    if isinstance(state, (tuple, list)):
        return sum(map(elements, state))
    if dataclasses.is_dataclass(state):
        return sum(elements(getattr(state, f.name)) for f in dataclasses.fields(state))
    return 0


@pytest.mark.parametrize("name", ["base", "joins 3, 2, 1", "unidirectional hybrid", "two hybrids, rotary", "front"])
def test_the_state_of_a_stream_does_not_grow(name: str) -> None:
    """After 200 steps, the state is no larger than after the first ten."""
    encoder, context = build(CONFIGS[name]), Context(80, 40)
    state, sizes, features = encoder.initial_state(1), [], sequence(24)
    for _ in range(200):
        with torch.inference_mode():
            _, state = encoder.step(features, state, context)
        sizes.append(elements(state))
    assert max(sizes[10:]) <= max(sizes[:10])


@every_config
def test_no_frames_in_no_frames_out(config: EncoderConfig) -> None:
    """A recording too short for a feature frame gives no output frames and no error."""
    encoder = build(config)
    out, lengths = encoder(torch.zeros(2, 0, MELS), torch.zeros(2, dtype=torch.long))
    assert out.shape == (2, 0, config.output_size)
    assert lengths.tolist() == [0, 0]
    state: EncoderState = encoder.initial_state(2)
    for final in (False, True):
        out, state = encoder.step(torch.zeros(2, 0, MELS), state, Context.causal(), final)
        assert out.shape == (2, 0, config.output_size)


def test_a_stream_cannot_have_the_full_context() -> None:
    encoder = build(BASE)
    with pytest.raises(ConfigError, match="chunk_ms is null"):
        encoder.step(sequence(4), encoder.initial_state(1), Context.full())


@pytest.mark.parametrize(
    ("joins", "reduction"),
    [((1,), 1), ((2, 1), 2), ((3, 1), 3), ((2, 2, 1), 4), ((5,), 5), ((3, 2), 6), ((2, 2, 2), 8)],
)
def test_time_shrinks_by_the_product_of_the_joins(joins: tuple[int, ...], reduction: int) -> None:
    config = EncoderConfig(joins=joins, hidden_size=4)
    encoder = Encoder(config, MELS, HOP_MS).eval()
    assert config.reduction == reduction
    assert encoder.frame_ms == HOP_MS * reduction
    _, lengths = encoder(sequence(40, rows=4), torch.tensor([40, 17, 8, 1]))
    assert lengths.tolist() == [-(-n // reduction) for n in (40, 17, 8, 1)]


@pytest.mark.parametrize("context", [Context.full(), Context(100, 70)], ids=["full", "bounded"])
@every_config
def test_gradient_reaches_every_parameter(config: EncoderConfig, context: Context) -> None:
    """Every parameter gets a gradient."""
    encoder = Encoder(config, MELS, HOP_MS).train()
    out, _ = encoder(sequence(64, rows=3), torch.tensor([64, 40, 30]), context)
    (out * torch.randn_like(out)).sum().backward()
    idle = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_the_same_weights_run_in_every_context() -> None:
    """Names and shapes of weights do not depend on the context: files and streams share a checkpoint."""
    assert all("context" not in name for name in build(BASE).state_dict())
    residual = build(CONFIGS["residual"])
    assert (
        residual.state_dict().keys() == build(dataclasses.replace(residual.config, residual=False)).state_dict().keys()
    )


def test_dropout_is_off_outside_training() -> None:
    encoder, features = build(dataclasses.replace(BASE, dropout=0.5)), sequence(32)
    assert torch.equal(whole(encoder, features, None), whole(encoder, features, None))
    encoder.train()
    assert not torch.equal(whole(encoder, features, None), whole(encoder, features, None))
