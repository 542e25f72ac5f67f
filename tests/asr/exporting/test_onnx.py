"""ONNX graphs give the outputs of the PyTorch modules for all sizes."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from asr import checkpoint, exporting
from asr.archive import manifest
from asr.audio import load
from asr.config import (
    AttentionConfig,
    Context,
    DecoderConfig,
    EncoderConfig,
    FeatureConfig,
    FrontConfig,
    HybridConfig,
)
from asr.model.las import Model
from asr.model.lm import LanguageModel
from asr.search.greedy import greedy
from asr.text.tokenizer import SOS, Tokenizer
from tests.support.commands import Command
from tests.support.graphs import (
    Graphs,
    Recorded,
    compare_decoder,
    compare_lm,
    compare_preview,
    compare_stream,
    compare_whole,
)
from tests.support.small_model import small_model
from tests.support.tiny_model import sounds, tiny_lm, tiny_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOLERANCE = 1e-4
FEATURE_TOLERANCE = 2e-3  # the logarithm amplifies rounding in quiet bins beside loud ones
SENTENCES = ("the cat sat on the mat", "a dog ran up the hill", "we saw six boats")


def exported(folder: Path, model: Model, lm: LanguageModel | None = None) -> Graphs:
    """The graphs of a model, which is first saved."""
    tokenizer = Tokenizer.train(SENTENCES, model.config.vocab_size, "char")
    assert len(tokenizer) == model.config.vocab_size
    checkpoint.save(folder / "model", model, tokenizer)
    if lm is not None:
        checkpoint.save_lm(folder / "model", lm, tokenizer)
    exporting.export(folder / "model", folder / "graphs")
    return Graphs(folder / "graphs")


def vocab_size() -> int:
    return len(Tokenizer.train(SENTENCES, 60, "char"))


def built(**changes: object) -> Model:
    """A tiny model with the given settings; its weights and statistics differ from a new model's."""
    torch.manual_seed(5)
    config = replace(tiny_model(vocab_size()).config, **changes)  # type: ignore[arg-type]
    model = Model(config).eval()
    model.features.mean.normal_()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model


def compared(graphs: Graphs, model: Model) -> Recorded:
    """Compare all graphs except the encoder step, for several batch sizes."""
    found = Recorded()
    torch.manual_seed(6)
    for rows in (3, 1):
        waveform, samples = sounds(rows)
        compare_whole(graphs, model, waveform, samples, found)
        encoded = model.encode(waveform, samples)
        tokens = torch.randint(len(model.ctc.weight), (rows, 6))
        compare_decoder(graphs, model, encoded.encoder_out.detach(), encoded.encoder_out_lengths, tokens, found)
    return found


TINY = EncoderConfig(joins=(2, 2), hidden_size=16, dropout=0.1)
FRONT = FrontConfig(channels=(2, 3), time_pools=(1, 2), frequency_pools=(2, 2), projection_size=12)

SINUSOIDAL = HybridConfig(layers=1, heads=2, past_frames=5, positions="sinusoidal")

KINDS: dict[str, dict[str, object]] = {
    "location": {},
    "additive": {"attention": AttentionConfig(scorer="additive", size=16)},
    "dot": {"attention": AttentionConfig(scorer="dot", size=16)},
    "scaled_dot": {"attention": AttentionConfig(scorer="scaled_dot", size=16, window_frames=4)},
    "multi_head": {"attention": AttentionConfig(scorer="multi_head", size=16, heads=2)},
    "imported": {
        "features": FeatureConfig(kind="decibel", n_mels=16, n_fft=400, f_min=0.0),
        "encoder": replace(TINY, front=FRONT, dense_layers=2, dense_size=20, normalisation="batch", joins=(1, 2)),
        "attention": AttentionConfig(size=16, location_channels=3, location_width=7, start="uniform", context_size=10),
        "decoder": DecoderConfig(cell="gru", hidden_size=24, embedding_size=8, layers=2),
    },
    "hybrid": {"encoder": replace(TINY, hybrid=HybridConfig(layers=2, heads=2, past_frames=8), residual=True)},
    "sinusoidal": {"encoder": replace(TINY, front=FRONT, hybrid=SINUSOIDAL, joins=(1, 2), bidirectional=False)},
    "forward": {"encoder": replace(TINY, bidirectional=False, projection_size=14, joins=(3, 2, 1))},
}
PACES = (12, 60)  # features between previews, whole output frames of every kind


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_equal_the_modules(kind: str, tmp_path: Path) -> None:
    """Every kind of model, in batches of other sizes than the traced example."""
    model = built(**KINDS[kind])
    found = compared(exported(tmp_path, model), model)
    assert found.pop("features") < FEATURE_TOLERANCE
    assert max(found.values()) < TOLERANCE, found
    assert found.keys() >= {"encoder", "ctc", "memory", "decoder_step", "attention"}


@pytest.mark.parametrize(
    ("kind", "lookahead"), [("location", 6), ("forward", 0), ("imported", 10), ("hybrid", 6), ("sinusoidal", 4)]
)
def test_steps_of_the_encoder_equal_the_whole_and_the_modules_steps(kind: str, lookahead: int, tmp_path: Path) -> None:
    """Steps of the encoder graph, by chunks with lookahead and by previews, equal the whole and the module's steps."""
    model, found = built(**KINDS[kind]), Recorded()
    model = Model(replace(model.config, streaming=Context(chunk_ms=240, lookahead_ms=60))).eval()
    graphs = exported(tmp_path, model)
    sizes = json.loads((tmp_path / "graphs" / "metadata.json").read_text())["encoder"]["streaming"]
    assert sizes == {"chunk": 24, "lookahead": lookahead}
    torch.manual_seed(7)
    for rows, frames in ((1, 1), (2, 25), (3, 31), (1, 120)):
        features = torch.randn(rows, frames, 16)
        compare_stream(graphs, model, features, model.config.streaming, sizes, found)
        for pace in PACES:
            compare_preview(graphs, model, features, pace, 3, found)
    assert found["encoder_step"] < TOLERANCE


def test_a_row_never_sees_its_neighbours(tmp_path: Path) -> None:
    model = built()
    graphs = exported(tmp_path, model)
    torch.manual_seed(8)
    waveform, samples = sounds(4)
    features, lengths = graphs.run("features", waveform, samples)
    encoder_out, out_lengths = graphs.run("encoder", features, lengths)
    for row in range(4):
        alone, length = graphs.run("features", waveform[row : row + 1, : samples[row]], samples[row : row + 1])
        alone, _ = graphs.run("encoder", alone, length)
        np.testing.assert_allclose(encoder_out[row, : out_lengths[row]], alone[0], atol=1e-5)
        assert not encoder_out[row, out_lengths[row] :].any()


@pytest.mark.parametrize("dense", [0, 1])
def test_the_language_model_is_exported_with_the_model(dense: int, tmp_path: Path) -> None:
    lm, found = tiny_lm(vocab_size()), Recorded()
    if dense:
        lm = LanguageModel(replace(lm.config, dense_layers=1, dense_size=12, layers=2)).eval()
    graphs = exported(tmp_path, built(), lm)
    for rows in (1, 5):
        compare_lm(graphs, lm, torch.randint(vocab_size(), (rows, 7)), found)
    assert found["lm_step"] < TOLERANCE


def test_metadata_has_what_a_program_needs(tmp_path: Path) -> None:
    model = built(**KINDS["imported"])
    graphs = exported(tmp_path, model)
    folder = tmp_path / "graphs"
    facts = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    names = {"features", "encoder", "encoder_step", "ctc", "memory", "decoder_step"}
    assert facts["graphs"].keys() == graphs.sessions.keys() == names
    for name, described in facts["graphs"].items():
        session = graphs.sessions[name]
        for way, ports in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [each["name"] for each in described[way]] == [port.name for port in ports]
            for each, port in zip(described[way], ports, strict=True):
                constants = [size if isinstance(size, int) else None for size in each["shape"]]
                assert len(constants) == len(port.shape)
                for constant, size in zip(constants, port.shape, strict=True):
                    assert constant == size or not isinstance(size, int), (name, each, port.shape)
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    assert facts["tokens"]["pieces"] == [tokenizer.piece(token) for token in range(len(tokenizer))]
    assert (facts["encoder"]["features_per_frame"], facts["encoder"]["least_features"]) == (4, 2)
    assert facts["features"]["speech_db"] == model.config.speech_db
    np.testing.assert_allclose(facts["features"]["normalisation"]["mean"], model.features.mean, rtol=1e-6)


def test_the_command_prints_the_files(command: Command, tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model")
    status, out, said = command("export", "onnx", folder, "--output", tmp_path / "graphs")
    assert status == 0, said
    assert sorted(map(Path, out.splitlines())) == sorted((tmp_path / "graphs").iterdir())
    assert said.endswith(" MB\n")
    status, _, said = command("export", "onnx", folder, "--output", tmp_path / "graphs")
    assert (status, "already exists" in said) == (1, True)
    status, _, said = command("export", "onnx", tmp_path / "nothing", "--output", tmp_path / "other")
    assert (status, "neither a checkpoint folder" in said, (tmp_path / "other").exists()) == (1, True, False)
    assert command("export", "gguf", folder, "--output", tmp_path / "other")[0] == 2


def test_a_missing_package_is_told(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, _, said = command("export", "onnx", "default", "--output", tmp_path / "graphs")
    assert status == 1
    assert "pip install 'spellstream[onnx]'" in said


@pytest.mark.slow
def test_the_shipped_models_graphs_equal_it_on_speech(speech_dir: Path, tmp_path: Path) -> None:
    """All graphs of the shipped model equal its modules on a hundred utterances, along the greedy text and in streams.

    LSTM cells of this encoder reach 130, where float32 has a resolution of 1.5e-5, and on one utterance PyTorch in
    float32 differs from float64 by 1.7e-4. So the encoder's steps are compared with float64.
    """
    exporting.export("default", tmp_path / "graphs")
    graphs, found = Graphs(tmp_path / "graphs"), Recorded()
    model, tokenizer, folder = checkpoint.load("default")
    lm, exact = checkpoint.load_lm(folder, tokenizer), copy.deepcopy(model).double()
    sizes = json.loads((tmp_path / "graphs" / "metadata.json").read_text())["encoder"]["streaming"]
    utterances = list(manifest.read(speech_dir / "dev.jsonl"))
    for one in utterances[:: len(utterances) // 100][:100]:
        waveform = load(one.audio)[None]
        samples = torch.tensor([waveform.shape[1]])
        compare_whole(graphs, model, waveform, samples, found)

        encoded = model.encode(waveform, samples)
        tokens = torch.tensor([[SOS, *greedy(model, encoded, model.config.search)[0].tokens]])
        compare_decoder(graphs, model, encoded.encoder_out.detach(), encoded.encoder_out_lengths, tokens, found)
        compare_lm(graphs, lm, tokens, found)

        features, _ = model.features(waveform, samples)
        compare_stream(graphs, exact, features, model.config.streaming, sizes, found)
        compare_preview(graphs, exact, features, sizes["chunk"], 30, found)
    print({name: f"{difference:.1e}" for name, difference in found.items()})
    assert found.pop("features") < FEATURE_TOLERANCE
    assert max(found.values()) < TOLERANCE, found
