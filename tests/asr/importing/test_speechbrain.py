"""Imported SpeechBrain models compute what the originals compute, and none of their code is run."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr import checkpoint
from asr.commands.main import main
from asr.errors import CheckpointError
from asr.importing.speechbrain import Imported, read
from asr.importing.speechbrain.recipe import Specials
from asr.importing.speechbrain.vocabulary import Vocabulary, convert
from asr.model.las import Encoded
from asr.search import search
from asr.text.tokenizer import BLANK, EOS, SOS, UNKNOWN
from tests.support.speechbrain_folder import lm_tensors, model_tensors
from tests.support.speechbrain_model import Sizes, Theirs, build, train_tokenizer

TOLERANCE = 1e-4
SMALL = {
    "as BPE 1000": Sizes(),
    "as BPE 5000": Sizes(rnnp=True, dnn_blocks=1, specials=(0, 1, 2)),
    "projection and LSTM cells": Sizes(projection=16, cell="lstm"),
}
LIVELY: Any = {"ending": 6.0, "heard": True}  # random weights whose texts end and depend on the audio
FULL = {
    "BPE 1000": Sizes(
        40, (128, 256), 4, 1024, 2, 512, False, -1, 128, 1024, 1024, 100, "gru", 1000, (0, 0, 0), 2048, 512, **LIVELY
    ),
    "BPE 5000": Sizes(
        40, (64, 128), 4, 1024, 1, 1024, True, -1, 1024, 1024, 1024, 100, "gru", 5000, (0, 1, 2), 2048, 512, **LIVELY
    ),
}


def sounds(count: int, longest: int = 40_000) -> list[Tensor]:
    """Gliding tones over noise, of half a second or more."""
    random = torch.Generator().manual_seed(3)
    found = []
    for samples in torch.randint(8_000, longest, (count,), generator=random).tolist():
        time = torch.arange(samples) / 16_000
        pitch, glide, swell = torch.rand(3, generator=random)
        tone = (
            torch.sin(2 * torch.pi * (200 + 1_500 * pitch) * time * (1 + time * glide))
            * torch.sin(6 * time * swell).abs()
        )
        found.append(0.3 * tone + 0.02 * torch.randn(samples, generator=random))
    return found


class Pair:
    """A SpeechBrain model, and ours imported from its folder."""

    def __init__(self, sizes: Sizes, waveforms: list[Tensor], folder: Path) -> None:
        self.theirs: Theirs = build(sizes, waveforms, folder)
        self.ours: Imported = read(folder)
        self.vocabulary: Vocabulary = convert(self.theirs.tokenizer_model, Specials(*sizes.specials))[1]

    def check(self, waveform: Tensor) -> tuple[Encoded, Tensor]:
        """Compare every stage for one utterance; returns both encoder outputs."""
        model, samples = self.ours.model, torch.tensor([len(waveform)])
        features, encoder_out = self.theirs.heard(waveform)
        close(model.features(waveform[None], samples)[0], features)
        encoded = model.encode(waveform[None], samples)
        close(encoded.encoder_out, encoder_out)
        heard = model.ctc_log_probs(encoded.encoder_out)[0]
        self.same_tokens(heard, self.theirs.ctc(encoder_out)[0].log_softmax(-1), self.vocabulary.ctc_rows)

        known = [4, 7, 9, 9, 5, 20, 30, 4]  # in our numbering
        theirs = [number for number in (self.vocabulary.input_rows[token] for token in known) if number is not None]
        expected, attention = self.theirs.steps(theirs, encoder_out)
        logits, alignments = model.decoder(torch.tensor([[SOS, *known]]), *encoded)
        self.same_tokens(logits[0].log_softmax(-1), expected, self.vocabulary.output_rows)
        close(alignments[0, :, 0], attention)

        lm = self.ours.lm
        assert lm is not None
        scores, _ = lm(torch.tensor([[SOS, *known]]), lm.initial_state(1))
        self.same_tokens(scores[0].log_softmax(-1), self.theirs.lm_steps(theirs), self.vocabulary.output_rows)
        return encoded, encoder_out

    def same_tokens(self, ours: Tensor, theirs: Tensor, numbers: list[int | None]) -> None:
        """Compare log-probabilities over our tokens and over theirs; a token that they lack has probability 0."""
        there = [token for token, number in enumerate(numbers) if number is not None]
        assert len(there) == theirs.shape[-1]
        close(ours[:, there], theirs[:, [number for number in numbers if number is not None]])
        missing = [token for token, number in enumerate(numbers) if number is None]
        assert (ours[:, missing] < -1_000).all()

    @torch.inference_mode()
    def compare_texts(self, waveforms: list[Tensor]) -> None:
        """Compare texts: greedy ones are equal, and at least 95 of 100 with all scorers."""
        beams = []
        for waveform in waveforms:
            encoded = self.ours.model.encode(waveform[None], torch.tensor([len(waveform)]))
            encoder_out = self.theirs.heard(waveform)[1]
            ours, theirs = self.greedy_texts(encoded, encoder_out)
            assert ours == theirs
            beams.append(self.beam_texts(encoded, encoder_out))
        assert sum(ours == theirs for ours, theirs in beams) >= 0.95 * len(beams)

    def greedy_texts(self, encoded: Encoded, encoder_out: Tensor) -> tuple[str, str]:
        config = dataclasses.replace(self.ours.model.config.search, beam_size=1, max_repeats=1_000)
        found = search(self.ours.model, encoded, config)[0][0]
        return self.ours.tokenizer.decode(found.tokens), self.theirs.text(encoder_out, greedy=True).lower()

    def beam_texts(self, encoded: Encoded, encoder_out: Tensor) -> tuple[str, str]:
        """Texts of both beam searches; of a hypothesis cut at the length limit, theirs drops the last token."""
        config = dataclasses.replace(self.ours.model.config.search, max_repeats=1_000, beam_margin=0.0)
        tokens = search(self.ours.model, encoded, config, self.ours.lm)[0][0].tokens
        tokens = tokens[:-1] if len(tokens) == encoder_out.shape[1] else tokens
        return self.ours.tokenizer.decode(tokens), self.theirs.text(encoder_out, greedy=False).lower()


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


def make(sizes: Sizes, waveforms: list[Tensor], folder: Path) -> Pair:
    pytest.importorskip("speechbrain", reason="SpeechBrain, the reference, is not installed")
    return Pair(sizes, waveforms, folder)


@pytest.fixture(scope="module", params=SMALL.values(), ids=SMALL.keys())
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make(request.param, sounds(6), tmp_path_factory.mktemp("hub"))


@torch.inference_mode()
def test_every_stage_gives_their_numbers(pair: Pair) -> None:
    """Features, encoder output, CTC, decoder, attention and language model equal SpeechBrain's."""
    for waveform in sounds(3):
        pair.check(waveform)


@pytest.fixture
def their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their length limit: four tokens less than ours."""
    for module in ("asr.search.greedy", "asr.search.beam"):
        monkeypatch.setattr(sys.modules[module], "token_limits", lambda lengths, *_: lengths)


@pytest.mark.usefixtures("their_limit")
def test_texts_are_theirs(pair: Pair) -> None:
    pair.compare_texts(sounds(8, 16_000))


@pytest.mark.slow
@pytest.mark.usefixtures("their_limit")
@pytest.mark.parametrize("sizes", FULL.values(), ids=FULL.keys())
@torch.inference_mode()
def test_full_size_on_real_speech(sizes: Sizes, speech_dir: Path, tmp_path: Path) -> None:
    """At the sizes of SpeechBrain's LibriSpeech recipes: all stages for two utterances, texts for 1 s of twenty."""
    from asr.audio import load

    rows = [json.loads(line) for line in (speech_dir / "dev.jsonl").read_text(encoding="utf-8").splitlines()[:20]]
    waveforms = [load(speech_dir / row["audio"]) for row in rows]
    both = make(sizes, waveforms[:4], tmp_path)
    for waveform in waveforms[:2]:
        both.check(waveform)
    both.compare_texts([waveform[:16_000] for waveform in waveforms])


# --- the command, and what it refuses ---------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The folder of a small model, as on the hub."""
    folder = tmp_path / "hub"
    make(Sizes(), sounds(2), folder)
    return folder


def test_the_result_is_a_folder_that_every_command_takes(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import soundfile

    output = tmp_path / "ours"
    assert main(["import", "speechbrain", str(hub), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    loaded = checkpoint.load(output)
    lm = checkpoint.load_lm(output, loaded.tokenizer)
    assert lm.config.dense_layers == 1
    assert json.loads((output / "source.json").read_text())["source"] == str(hub)

    (waveform,) = sounds(1)
    soundfile.write(tmp_path / "a.wav", waveform.numpy(), 16_000)
    assert main(["transcribe", str(tmp_path / "a.wav"), "--model", str(output), "--style", "spoken"]) == 0
    assert main(["import", "speechbrain", str(hub), "--output", str(output)]) == 1  # not over another model
    assert "already exists" in capsys.readouterr().err


def test_a_transformer_language_model_is_left_out_and_told(hub: Path) -> None:
    recipe = hub / "hyperparams.yaml"
    begin, _, rest = recipe.read_text().partition("lm_model: ")
    _, _, rest = rest.partition("tokenizer: !new")
    transformer = (
        "!new:speechbrain.lobes.models.transformer.TransformerLM.TransformerLM\n    vocab: 40\n    d_model: 8\n"
    )
    recipe.write_text(f"{begin}lm_model: {transformer}tokenizer: !new{rest}")
    found = read(hub)
    assert found.lm is None
    assert found.model.config.search.lm_weight == 0
    assert "lm_model, TransformerLM" in found.notes[0]
    assert "train-lm" in found.notes[0]


def test_tensors_have_the_names_and_shapes_of_theirs(hub: Path) -> None:
    """The folders that tests make without SpeechBrain have its tensor names and shapes."""
    for file, tensors in (("asr.ckpt", model_tensors(Sizes())), ("lm.ckpt", lm_tensors(Sizes()))):
        theirs = torch.load(hub / file, weights_only=True)  # noqa: TID251
        assert {name: x.shape for name, x in tensors.items()} == {name: x.shape for name, x in theirs.items()}


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("name", ["asr.ckpt", "lm.ckpt", "normalizer.ckpt"])
def test_a_checkpoint_with_code_is_refused_and_nothing_run(
    name: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, hub / name)
    with pytest.raises(CheckpointError, match=f"{name}: not a checkpoint of only tensors"):
        read(hub)
    assert not (tmp_path / "sprung").exists()


def test_a_recipe_is_data(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls in a recipe's YAML are not executed."""
    monkeypatch.chdir(tmp_path)
    recipe = hub / "hyperparams.yaml"
    recipe.write_text(
        f"{recipe.read_text()}\nextra: !apply:os.mkdir [sprung]\nother: !!python/object/apply:os.mkdir [sprung]\n"
    )
    with pytest.raises(CheckpointError, match=r"hyperparams.yaml: not YAML that can be read: could not determine"):
        read(hub)
    recipe.write_text(recipe.read_text().replace("other: !!python/object/apply:os.mkdir [sprung]", ""))
    read(hub)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("RNN.LSTM\n    rnn_layers", "RNN.LiGRU\n    rnn_layers", "enc.rnn_class is LiGRU: only LSTM"),
        ("attn_type: location", "attn_type: keyvalue", "dec.attn_type is keyvalue"),
        ("rnn_type: gru", "rnn_type: rnn", "dec.rnn_type is rnn"),
        ("    re_init: True", "    sharpen: 2", "the argument sharpen is not understood"),
        ("norm_type: global", "norm_type: sentence", "norm_type is 'sentence': only 'global'"),
        ("n_mels: 20", "n_mels: !PLACEHOLDER", "compute_features.n_mels is !PLACEHOLDER"),
        ("n_mels: 20", "n_mels: !ref <n_mels>", "n_mels refers to itself"),
        ("dnn_neurons: 20", "dnn_neurons: !ref <emb_size> * 2", "which is not understood"),
        ("dnn_neurons: 20", "dnn_neurons: !ref <nowhere>", "refers to <nowhere>, which is not there"),
        ("rnn_neurons: 24", "rnn_neurons: many", "rnn_neurons is 'many': it must be a number"),
        ("rnn_neurons: 24", "rnn_neurons: .nan", "rnn_neurons is nan: it must be a number"),  # int(nan): traceback
        ("bos_index: 0", "bos_index: x", "hyperparams.yaml: bos_index is 'x': it must be a number"),
        ("rnn_neurons: 24", "rnn_neurons: 32", "hyperparams.yaml asks for"),
        (
            "rnn_layers: 2\n    rnn_neurons: 24\n    rnn_bi",
            "rnn_layers: 1\n    rnn_neurons: 24\n    rnn_bi",
            "is not part of",
        ),
        ("output_neurons: 40", "output_neurons: 41", "41 tokens, but the tokenizer has 40"),
        ("bos_index: 0", "bos_index: 7", "the token 7 is"),
        ("CRDNN.CRDNN", "ECAPA.ECAPA", "is not understood"),
        ("seed: 2602", "seed: [", "not YAML"),
    ],
)
def test_what_is_not_understood_is_named(old: str, new: str, message: str, hub: Path) -> None:
    recipe = hub / "hyperparams.yaml"
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new, 1))
    with pytest.raises(CheckpointError) as raised:
        read(hub)
    assert message in str(raised.value)


@pytest.mark.parametrize("name", ["asr.ckpt", "lm.ckpt", "normalizer.ckpt", "tokenizer.ckpt", "hyperparams.yaml"])
def test_a_missing_or_damaged_file_is_named(name: str, hub: Path) -> None:
    whole = (hub / name).read_bytes()
    for content in (b"", whole[: len(whole) // 2], bytes(range(256)) * 4):
        (hub / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            read(hub)
    (hub / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace("asr.ckpt", "asr.ckpt or model.ckpt")):
        read(hub)


# --- the vocabulary ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("specials", [(0, 0, 0), (0, 1, 2)])
def test_segmentations_stay_and_capitals_go(specials: tuple[int, int, int]) -> None:
    """Pieces are reordered and in lower case, with our four special tokens; segmentation stays the same."""
    import sentencepiece

    model = train_tokenizer(40, specials)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours, vocabulary = convert(model, Specials(*specials))
    assert [ours.piece(token) for token in (BLANK, UNKNOWN, SOS, EOS)] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert sorted({*vocabulary.output_rows} - {None}) == sorted({*vocabulary.ctc_rows} - {None}) == list(range(40))
    for text in ("THE OLD BIRD IS NEW", "A ZOO", "WE LIKE QUITE RARE PETS"):
        tokens = ours.encode(text.lower())
        assert [vocabulary.input_rows[token] for token in tokens] == theirs.EncodeAsIds(text)
        assert ours.decode(tokens) == text.lower()
