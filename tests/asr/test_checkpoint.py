"""Checkpoints are data: they load as saved, errors name what does not fit, and no code in them is run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr import checkpoint, folders
from asr.config import AttentionConfig, DecoderConfig, EncoderConfig, FeatureConfig, ModelConfig
from asr.errors import CheckpointError, DataError
from asr.model.las import Model
from asr.text.tokenizer import Tokenizer

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.model"
TEXTS = ["the cat sat on the mat", "it's a hat"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, 24)


@pytest.fixture
def model(tokenizer: Tokenizer) -> Model:
    """A small model with batch normalisation, for integers and running statistics."""
    config = ModelConfig(
        vocab_size=len(tokenizer),
        features=FeatureConfig(n_mels=12),
        encoder=EncoderConfig(joins=(2, 2), hidden_size=6, normalisation="batch"),
        attention=AttentionConfig(size=8, location_channels=2, location_width=5),
        decoder=DecoderConfig(hidden_size=8, embedding_size=4),
    )
    model = Model(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.1 if name.endswith(("std", "running_var")) else -0.8, 0.8)
            else:
                tensor.fill_(7)
    return model.eval()


@pytest.fixture
def folder(model: Model, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    path = tmp_path / "tiny"
    checkpoint.save(path, model, tokenizer)
    return path


def outputs(model: Model) -> list[torch.Tensor]:
    """The outputs of each part of a model for a waveform."""
    waveform = torch.sin(torch.arange(8_000) / 7.0)[None]
    with torch.inference_mode():
        encoded = model.encode(waveform, torch.tensor([8_000]))
        logits, alignments = model.decoder(torch.tensor([[2, 5, 6]]), *encoded)
        return [encoded.encoder_out, logits, alignments, model.ctc_log_probs(encoded.encoder_out)]


# --- Round trips


def test_what_was_saved_comes_back(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Config, tokenizer, every tensor and the model's outputs are the same after loading."""
    loaded = checkpoint.load(folder)
    assert loaded.folder == folder
    assert loaded.model.config == model.config
    assert loaded.tokenizer.model == tokenizer.model
    assert not loaded.model.training
    expected, found = model.state_dict(), loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert all(map(torch.equal, outputs(loaded.model), outputs(model)))


def test_half_precision_halves_the_file_and_runs_in_float32(
    model: Model, tokenizer: Tokenizer, folder: Path, tmp_path: Path
) -> None:
    """Weights are stored in float16 but load as float32; integers keep their type."""
    checkpoint.save(tmp_path / "half", model, tokenizer, torch.float16)
    stored = load_file(tmp_path / "half" / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16, torch.int64}
    tensors = [sum(t.nbytes for t in load_file(path / WEIGHTS).values()) for path in (tmp_path / "half", folder)]
    assert tensors[0] < 0.52 * tensors[1]
    loaded = checkpoint.load(tmp_path / "half").model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for found, expected in zip(outputs(loaded), outputs(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_saving_again_replaces_and_leaves_nothing_behind(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    with torch.no_grad():
        model.ctc.bias.fill_(0.5)
    checkpoint.save(folder, model, tokenizer)
    assert torch.equal(checkpoint.load(folder).model.ctc.bias, model.ctc.bias)
    assert sorted(p.name for p in folder.iterdir()) == sorted([WEIGHTS, CONFIG, TOKENIZER])


def test_weights_can_be_read_by_whoever_may_read_the_rest(folder: Path) -> None:
    """Safetensors writes files with mode 0600: a server of another user could not open the weights."""
    assert (folder / WEIGHTS).stat().st_mode == (folder / CONFIG).stat().st_mode


def test_a_full_disk_is_named_and_the_old_weights_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, safetensors' exception was not caught, and a partial file was left behind."""
    model = checkpoint.load(folder)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=re.escape(f"{folder / 'x.safetensors'}: cannot be written: No space left")):
        checkpoint.write_tensors(folder / "x.safetensors", model.model.state_dict())
    assert sorted(p.name for p in folder.iterdir()) == sorted([WEIGHTS, CONFIG, TOKENIZER])


def test_a_path_may_be_text(folder: Path) -> None:
    assert checkpoint.load(str(folder)).folder == folder


def test_a_shipped_model_has_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_PRETRAINED", folder.parent)
    assert folders.pretrained() == ["tiny"]
    assert checkpoint.load("tiny").folder == folder


# --- What does not fit


def edit_config(folder: Path, edit: Callable[[dict[str, object]], object]) -> None:
    data = json.loads((folder / CONFIG).read_text())
    edit(data)
    (folder / CONFIG).write_text(json.dumps(data))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS)


def refused(folder: Path, file: str, reason: str) -> None:
    """Loading fails with one line that begins with the path of the broken file."""
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint.load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / file}: ")
    assert "\n" not in message


@pytest.mark.parametrize("file", [TOKENIZER, WEIGHTS])
def test_a_missing_file(folder: Path, file: str) -> None:
    (folder / file).unlink()
    refused(folder, file, "missing")


def test_a_folder_without_a_config(folder: Path) -> None:
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"tiny: this folder has no config\.json"):
        checkpoint.load(folder)


def test_an_unknown_name_says_what_there_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_PRETRAINED", folder.parent)
    monkeypatch.setenv("SPELLSTREAM_HOME", str(folder))
    with pytest.raises(CheckpointError, match=r"huge: neither a checkpoint folder nor .* \(known: tiny\)"):
        checkpoint.load("huge")


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refused(folder, WEIGHTS, ".")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000], ids=["cut", "empty", "binary", "deep"])
def test_a_config_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / CONFIG).write_bytes(content)
    refused(folder, CONFIG, ".")


def test_a_config_that_is_no_table(folder: Path) -> None:
    (folder / CONFIG).write_text("[1, 2]")
    refused(folder, CONFIG, "table of settings")


def test_a_config_with_an_unknown_setting(folder: Path) -> None:
    edit_config(folder, lambda data: data.update(colour="blue"))
    refused(folder, CONFIG, r"config\.colour is not a setting")


def test_a_config_with_a_setting_out_of_bounds(folder: Path) -> None:
    edit_config(folder, lambda data: data["decoder"].update(layers=0))  # type: ignore[attr-defined]
    refused(folder, CONFIG, "decoder.layers is 0")


def test_a_config_of_another_shape(folder: Path) -> None:
    """The error names the tensor, its shape and the expected shape."""
    edit_config(folder, lambda data: data["decoder"].update(embedding_size=5))  # type: ignore[attr-defined]
    refused(folder, WEIGHTS, r"decoder\.\S+ has shape \(.*\); config\.json asks for \(.*\)")


def test_a_tensor_of_another_shape(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"ctc.bias": torch.zeros(3)}))
    refused(folder, WEIGHTS, r"the tensor ctc\.bias has shape \(3,\); config\.json asks for \(24,\)")


def test_a_missing_tensor(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("ctc.bias"))
    refused(folder, WEIGHTS, r"the tensor ctc\.bias is missing")


def test_an_extra_tensor(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update(extra=torch.zeros(2)))
    refused(folder, WEIGHTS, "the tensor extra is not part of the model")


def test_of_several_the_first_by_name_is_told(folder: Path) -> None:
    """Of several unfit tensors, the error names the first by name, the same in every run."""
    edit_weights(folder, lambda weights: weights.update({f"x{i}": torch.zeros(2) for i in range(9)}))
    refused(folder, WEIGHTS, "the tensor x0 ")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_weights_file(folder: Path, keep: int) -> None:
    """A weights file cut at any byte is refused."""
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    refused(folder, WEIGHTS, ".")


def test_a_broken_tokenizer(folder: Path) -> None:
    (folder / TOKENIZER).write_bytes((folder / TOKENIZER).read_bytes()[:-9])
    refused(folder, TOKENIZER, "not a sentencepiece model")


def test_a_tokenizer_of_another_size(folder: Path) -> None:
    (folder / TOKENIZER).write_bytes(Tokenizer.train(TEXTS, 16, "char").model)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model has 16 tokens, but config\.json says vocab_size 24"):
        checkpoint.load(folder)


# --- Promise 10


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG, TOKENIZER])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_is_never_run(folder: Path, file: str, form: str) -> None:
    """A pickle is refused like any other broken file, and its code is not run."""
    import pickle  # noqa: TID251 - to make what must not be loaded

    sprung = folder / "sprung"
    if form == "pickle":
        (folder / file).write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save({"ctc.bias": Trap(sprung)}, folder / file)
    refused(folder, file, ".")
    assert not sprung.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    """The trap does run when unpickled; otherwise the test above would prove nothing."""
    import pickle  # noqa: TID251 - to make what must not be loaded

    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))  # noqa: S301 - our own
    assert (tmp_path / "sprung").exists()
