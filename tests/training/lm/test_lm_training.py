"""`spellstream train-lm`: texts, results, and resuming after any interruption."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from asr import checkpoint
from asr.commands.main import main
from asr.text.tokenizer import BLANK, EOS, SOS, Tokenizer
from asr.training.lm.config import LmTrainConfig
from asr.training.lm.data import Position, Sentences, Source, tokenise

SUBJECTS = ("the cat", "a dog", "the old man", "my sister", "a bird")
VERBS = ("saw", "heard", "followed", "found")
LINES = [f"{a} {verb} {b}" for a in SUBJECTS for verb in VERBS for b in SUBJECTS]
SETTINGS = """
embedding_size = 16
hidden_size = 32
batch_tokens = 400
held_out = 0.1
passes = 6
learning_rate = 0.02
matrix_rate = 0.05
warmup_steps = 5
validate_every = 20
save_every = 7
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(LINES, 30, "char")


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A folder with the files of a run."""
    (tmp_path / "text.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
    (tmp_path / "lm.toml").write_text(SETTINGS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Command:
    """A function that runs train-lm in the folder, and returns exit status, standard output and standard error."""
    monkeypatch.chdir(folder)

    def call(*options: str, output: str = "lm") -> tuple[int, str, str]:
        given = options if "--text" in options else ("--text", "text.txt", *options)
        status = main([*BASE, "--output", output, *given])
        return status, *capsys.readouterr()

    return call


BASE = ("train-lm", "--tokenizer", "tokenizer.model", "--config", "lm.toml", "--device", "cpu")


def prepared(
    folder: Path, tokenizer: Tokenizer, *texts: tuple[str, int], config: LmTrainConfig | None = None
) -> Sentences:
    """Tokenised sentences of the texts, each read the given number of times per pass."""
    sources = []
    for i, (text, times) in enumerate(texts):
        sources.append(Source(folder / f"{i}.txt", times))
        sources[-1].path.write_text(text, encoding="utf-8")
    return tokenise(sources, tokenizer, folder, config or LmTrainConfig(), lambda done, total: None)


def read(sentences: Sentences, config: LmTrainConfig, tokenizer: Tokenizer) -> list[str]:
    """The sentences of a pass, in order."""
    rows = []
    for batch, _, passes in sentences.batches(Position(), config):
        rows += [tokenizer.decode(row) for row in batch.targets.tolist()]
        if passes == 1:
            break
    return rows


def test_it_learns_and_leaves_a_model_that_a_search_can_use(command: Command, tokenizer: Tokenizer) -> None:
    """Perplexity falls to nearly that of a text with few choices; the best model is in the folder."""
    Path("lm.toml").write_text(SETTINGS.replace("passes = 6", "passes = 20"), encoding="utf-8")
    status, out, err = command()
    assert status == 0
    *lines, folder = out.splitlines()
    assert folder == "lm"
    per_token = [float(line.split("perplexity ")[1].split()[0]) for line in lines]
    assert per_token[-1] < 2 < 3 < per_token[0]
    assert "training tokens" in err
    lm = checkpoint.load_lm(Path("lm"), tokenizer)
    text = tokenizer.encode("the cat saw a dog")
    log_probs = lm(torch.tensor([[SOS, *text]]), lm.initial_state(1))[0][0].log_softmax(-1)
    assert log_probs.gather(1, torch.tensor([*text, EOS])[:, None]).mean() > -math.log(2.5)


def test_a_sentence_is_read_from_sos_to_eos_with_nothing_before_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Like hypotheses, rows have one sentence each, from sos to eos; padding is not a target."""
    sentences = prepared(tmp_path, tokenizer, ("the cat\na dog saw the bird\na bird\n", 1))
    batch, *_ = next(sentences.batches(Position(), LmTrainConfig()))
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        length = targets.index(EOS) + 1
        assert inputs[:length] == [SOS, *targets[: length - 1]]
        assert set(targets[length:]) <= {BLANK}
        assert tokenizer.decode(targets) in ("the cat", "a dog saw the bird")


def test_a_pass_reads_each_text_as_often_as_it_was_asked(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A pass reads each text the requested number of times, except its end, which measures perplexity."""
    texts = ("\n".join(LINES[:30]), 1), ("my dog\nmy cat\nmy bird\n", 3)
    config = LmTrainConfig(held_out=0.1, batch_tokens=200)
    sentences = prepared(tmp_path, tokenizer, *texts, config=config)
    assert sorted(read(sentences, config, tokenizer)) == sorted([*LINES[:27], *["my dog", "my cat"] * 3])
    dev = [tokenizer.decode(row) for batch in sentences.dev_batches(200) for row in batch.targets.tolist()]
    assert sorted(dev) == sorted([*LINES[27:30], "my bird"])


def test_a_text_to_measure_on_takes_the_place_of_what_is_held_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    sentences = prepared(tmp_path, tokenizer, ("the cat\na dog\n", 1), ("a bird saw the cat\n", 0))
    assert sorted(read(sentences, LmTrainConfig(), tokenizer)) == ["a dog", "the cat"]
    (dev,) = sentences.dev_batches(1_000)
    assert [tokenizer.decode(row) for row in dev.targets.tolist()] == ["a bird saw the cat"]


def test_long_sentences_are_cut_into_pieces_and_nothing_is_lost(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = LmTrainConfig(max_tokens=7, held_out=0.01)
    sentences = prepared(tmp_path, tokenizer, ("the cat followed the old man\na dog\n", 1), config=config)
    pieces = [sentences.batch(np.array([i])).targets[0].tolist() for i in range(len(sentences.starts))]
    assert [*map(len, pieces)] == [7, 7, 7, 7, 2, 7]
    whole = [*tokenizer.encode("the cat followed the old man"), EOS, *tokenizer.encode("a dog"), EOS]
    assert [t for piece in pieces for t in piece] == whole


def test_batches_go_on_from_any_position(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Batches continue from any position, also across the end of a pass; each pass has its own order."""
    config = LmTrainConfig(batch_tokens=150, held_out=0.01)
    sentences = prepared(tmp_path, tokenizer, ("\n".join(LINES), 1), config=config)
    source = sentences.batches(Position(), config)
    found = [next(source) for _ in range(40)]
    assert [passes for *_, passes in found] == sorted(passes for *_, passes in found)
    assert found[-1][2] > 1.5
    for i in (3, 17, 29):
        again = sentences.batches(found[i][1], config)
        for (batch, *after), (other, *there) in zip(found[i + 1 :], again, strict=False):
            assert after == there
            assert torch.equal(batch.targets, other.targets)


def test_manifests_are_read_too_and_text_is_normalised(command: Command, folder: Path) -> None:
    """Manifests are read, and text is normalised; sentences that cannot be spelled, as with digits, are skipped."""
    rows = [{"id": str(i), "text": line.upper() + "."} for i, line in enumerate(LINES)]
    rows += [{"id": "x", "text": None}, {"id": "y", "text": "7 dogs"}, {"id": "z", "text": "..."}]
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    status, _, err = command("--text", "all.jsonl@2", "--max-minutes", "0.01")
    assert status == 0
    assert "left out, since the tokenizer cannot spell them: 2" in err
    tokens = np.fromfile(folder / "lm" / "tokens.u16", np.uint16)
    assert (tokens == EOS).sum() == len(LINES)
    assert (tokens > EOS).sum() == (tokens != EOS).sum()


def test_broken_off_and_resumed_it_reaches_the_same_weights(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `kill -9` within a step, the steps since the last save are repeated to the same weights."""
    from asr.training.saved_run import SavedRun

    assert command(output="whole")[0] == 0
    steps = []
    step = SavedRun.step

    def killed(run: SavedRun, loss: object, rate: float) -> object:
        steps.append(rate)
        if len(steps) == 18:
            raise SystemError("killed")
        return step(run, loss, rate)  # type: ignore[arg-type]

    monkeypatch.setattr(SavedRun, "step", killed)
    with pytest.raises(SystemError):
        command(output="broken")
    assert command(output="broken")[0] == 0
    whole, broken = (load_file(folder / name / "last.safetensors") for name in ("whole", "broken"))
    assert len(steps) > len(whole) > 0
    for name, tensor in whole.items():
        torch.testing.assert_close(broken[name], tensor, rtol=0, atol=0, msg=name)
    for name, tensor in load_file(folder / "whole" / "lm.safetensors").items():
        assert torch.equal(load_file(folder / "broken" / "lm.safetensors")[name], tensor)


def test_ctrl_c_saves_and_says_so(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C saves the run after the current step, and the same command resumes it."""
    from asr.training.saved_run import SavedRun

    steps = []
    step = SavedRun.step

    def interrupted(run: SavedRun, loss: object, rate: float) -> object:
        steps.append(rate)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(run, loss, rate)  # type: ignore[arg-type]

    monkeypatch.setattr(SavedRun, "step", interrupted)
    status, _, err = command()
    assert (status, len(steps)) == (130, 3)
    assert "interrupted: saved after step 3; the same command resumes the run" in err
    assert command()[0] == 0
    whole = int(load_file(Path("lm/last.safetensors"))["optimiser.step.bias"])
    assert len(steps) == whole > 30  # no step was made twice


def test_a_gradient_that_is_not_finite_spoils_nothing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """One NaN made all weights NaN, and the next save replaced the last good ones."""
    from asr.training.saved_run import SavedRun

    steps = []
    step = SavedRun.step

    def spoiled(run: SavedRun, loss: torch.Tensor, rate: float) -> object:
        steps.append(rate)
        return step(run, loss * float("nan") if len(steps) == 18 else loss, rate)

    monkeypatch.setattr(SavedRun, "step", spoiled)
    status, _, err = command()
    assert (status, len(steps)) == (1, 18)
    assert "lm: the gradient is not finite; resume with a lower learning_rate" in err
    assert all(tensor.isfinite().all() for tensor in load_file(Path("lm/last.safetensors")).values())
    assert command()[0] == 0


def test_time_is_of_the_whole_run(command: Command) -> None:
    """The time limit covers the whole run: the learning rate reaches zero by then; a later start only measures."""
    status, out, _ = command("--max-minutes", "0.01")
    assert status == 0
    first = out.splitlines()
    assert command("--max-minutes", "0.01")[1].splitlines()[0] == first[-2]
    config = LmTrainConfig()
    assert config.rate_share(1_000, 0.0) == 1.0
    assert config.rate_share(1_000, 1.0) == 0.0


def test_a_run_begins_where_another_ended(command: Command) -> None:
    """At a rate of nearly zero, a wider model has the perplexity of its initial model, and works in a search."""
    first = float(command()[1].splitlines()[-2].split()[-6])
    settings = SETTINGS.replace("hidden_size = 32", "hidden_size = 40").replace("rate = 0.0", "rate = 1e-12 # ")
    Path("lm.toml").write_text(settings.replace("passes = 6", "passes = 0.1"), encoding="utf-8")
    status, out, _ = command("--init", "lm", output="wider")
    assert status == 0
    assert float(out.splitlines()[-2].split()[-6]) == pytest.approx(first, rel=0.005)  # weights are in float16


def test_a_run_begins_with_a_model_given_by_name(
    command: Command, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Without --config the new model has the size of the old one, here not the default size."""
    assert command()[0] == 0
    monkeypatch.setenv("SPELLSTREAM_HOME", str(folder))
    (folder / "models").mkdir()
    (folder / "lm").rename(folder / "models" / "mine")
    given = ("train-lm", "--text", "text.txt", "--tokenizer", "tokenizer.model", "--init", "mine", "--output", "more")
    assert main([*given, "--device", "cpu", "--max-minutes", "0.01"]) == 0
    assert json.loads((folder / "more" / "lm.json").read_text())["lm"]["hidden_size"] == 32


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--text", "nothing.txt"), "nothing.txt: no such file"),
        (("--text", "empty.txt"), "empty.txt: contains no usable sentence"),
        (("--text", "broken.jsonl"), "broken.jsonl:1: not JSON"),
        (("--text", "list.jsonl"), "list.jsonl:1: expected an object"),
        (("--text", "one.txt"), "no sentence is left to train on"),
        (("--config", "wrong.toml"), "wrong.toml: config.hidden is not a setting"),
        (("--config", "none.toml"), "none.toml: No such file"),
        (("--tokenizer", "text.txt"), "text.txt: not a sentencepiece model"),
        (("--dev-text", "nothing.txt"), "nothing.txt: no such file"),
        (("--text", "folder.txt"), "folder.txt: is a folder, not a text"),
        (("--text", os.devnull), f"{os.devnull}: no text in it"),
        (("--text", "text.txt/text.txt"), "text.txt/text.txt: Not a directory"),
        (("--text", "pipe.txt"), "pipe.txt: is a pipe or a device, and a text is read more than once"),
    ],
)
def test_what_cannot_be_used_is_one_line(options: tuple[str, str], says: str, command: Command, folder: Path) -> None:
    """A folder, device or pipe was reported as "no such file"."""
    (folder / "folder.txt").mkdir()
    os.mkfifo(folder / "pipe.txt")
    (folder / "empty.txt").write_text("\n2000\n", encoding="utf-8")
    (folder / "broken.jsonl").write_text("{", encoding="utf-8")
    (folder / "list.jsonl").write_text("[1]", encoding="utf-8")
    (folder / "one.txt").write_text("the cat\n", encoding="utf-8")
    (folder / "wrong.toml").write_text("hidden = 3\n", encoding="utf-8")
    status, out, err = command(*options)
    assert (status, out) == (1, "")
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_folder_keeps_to_its_run(command: Command, folder: Path) -> None:
    """A run is not resumed with another text or model, nor from a damaged file; the error names which."""
    assert command("--max-minutes", "0.01")[0] == 0
    (folder / "other.toml").write_text(SETTINGS + "layers = 2\n", encoding="utf-8")
    assert "another model or seed" in command("--config", "other.toml")[2]
    (folder / "text.txt").write_text("the cat\na dog\n", encoding="utf-8")
    assert "holds a run with other text" in command()[2]
    (folder / "text.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    (folder / "lm" / "last.safetensors").write_bytes(b"damaged")
    assert "last.safetensors: damaged" in command()[2]


@pytest.mark.parametrize("method", ["write", "close"])
def test_a_full_disk_names_the_curves(method: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of TensorBoard's writer printed a traceback, and the last line named no file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"tensorboard.summary.writer.record_writer.RecordWriter.{method}", full)
    status, _, err = command("--max-minutes", "0.01")
    assert status == 1
    assert "Traceback" not in err
    assert "lm/tensorboard: cannot be written: No space left on device; the run resumes" in err.splitlines()[-1]
