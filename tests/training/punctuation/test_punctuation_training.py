"""`spellstream train-punctuation`: text, results, and resuming after an interruption."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("num2words")

from asr import checkpoint
from asr.commands.main import main
from asr.errors import DataError
from asr.training.punctuation import batches
from asr.training.punctuation import run as training
from asr.training.punctuation.batches import dev_batches, training_batch
from asr.training.punctuation.config import ErrorConfig, PauseConfig, PunctuationTrainConfig
from asr.training.punctuation.data import IGNORED, Text, read_texts
from asr.training.punctuation.measuring import best_offsets, measure
from asr.writing.network import PunctuationNetwork, TagLogits, kinds_of_offsets
from asr.writing.parts import Utterance
from asr.writing.vocabulary import Case, Pause

SUBJECTS = ("the cat", "a dog", "my sister")
LINES = [
    line
    for who in SUBJECTS
    for verb in ("saw", "heard", "found")
    for line in (f"Yes, {who} {verb} Paris.", f"Who {verb} {who}? Then, {who} left, and I {verb} NASA.")
]
SETTINGS = """
batch_words = 512
held_out = 0.1
passes = 60
learning_rate = 0.02
warmup_steps = 5
validate_every = 15
save_every = 4
[model]
words = 40
buckets = 60
embedding_size = 16
hidden_size = 24
layers = 1
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """A function that runs train-punctuation on a text, and returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n".join(LINES * 4) + "\n", encoding="utf-8")
    Path("marks.toml").write_text(SETTINGS, encoding="utf-8")

    def call(*options: str) -> tuple[int, str, str]:
        given = options or ("text.txt", "--output", "marks", "--config", "marks.toml")
        status = main(["train-punctuation", *given, "--device", "cpu", "--threads", "1"])
        return status, *capsys.readouterr()

    return call


def config(**changes: object) -> PunctuationTrainConfig:
    return PunctuationTrainConfig(batch_words=512, held_out=0.1, **changes)  # type: ignore[arg-type]


@pytest.fixture
def text(tmp_path: Path) -> Text:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(LINES * 4) + "\n", encoding="utf-8")
    settings = config()
    return read_texts([(path, 1)], tmp_path, settings.model, settings.held_out, lambda done, total: None)


def test_it_learns_and_leaves_a_tagger(command: Command) -> None:
    """F1 rises to nearly 1 for a text with few choices; the best model is in the folder, and works."""
    status, out, err = command()
    assert status == 0
    *lines, folder = out.splitlines()
    assert folder == "marks"
    assert "training words" in err
    assert float(lines[-1].split("capitals ")[1]) > 0.9
    tagger = checkpoint.load_punctuation(Path("marks"))
    words = ["who", "saw", "my", "sister", "then", "my", "sister", "left", "and", "i", "saw", "nasa"]
    (tags,) = tagger.tag([Utterance(words, [None] * len(words))])
    written = " ".join(text + mark for text, mark in tags)
    assert written == "who saw my sister? then, my sister left, and I saw NASA."


def test_killed_and_resumed_equals_a_run_that_was_not(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C saves the run, and the same command resumes it to the same weights."""
    Path("marks.toml").write_text(SETTINGS.replace("passes = 60", "passes = 20"))
    assert command()[0] == 0
    whole = checkpoint.load_punctuation(Path("marks")).network.state_dict()
    Path("marks").rename("whole")
    real = training.training_batch

    def interrupting(text: Text, settings: PunctuationTrainConfig, step: int) -> object:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return real(text, settings, step)

    monkeypatch.setattr(training, "training_batch", interrupting)
    status, _, err = command()
    assert status != 0
    assert "saved after step 8" in err
    monkeypatch.setattr(training, "training_batch", real)
    assert command()[0] == 0
    again = checkpoint.load_punctuation(Path("marks")).network.state_dict()
    for name, weight in whole.items():
        torch.testing.assert_close(again[name], weight)


def test_a_run_starts_from_a_trained_model(command: Command) -> None:
    """With --init, training on further text keeps what the model knows, and learns the text's own mixed cases.

    Without it, a new kind of text meant a model from random weights: the shipped one could not be trained further.
    """
    with Path("text.txt").open("a") as text:
        text.write("Yes, my sister found an iPad.\n" * 6)
    assert command()[0] == 0
    Path("new.txt").write_text("Then, I saw NASA. Who heard the iPhone? The cat found Paris.\n" * 30)
    Path("slow.toml").write_text(
        "batch_words = 512\nlearning_rate = 1e-6\nmatrix_rate = 1e-6\nvalidate_every = 2\npasses = 2\n"
    )
    status, out, err = command("new.txt", "--init", "marks", "--config", "slow.toml", "--output", "more")
    assert status == 0, err
    assert out.startswith("step 0 ")
    assert float(out.splitlines()[-2].split("capitals ")[1]) > 0.8
    old, new = (checkpoint.load_punctuation(Path(folder)) for folder in ("marks", "more"))
    assert new.vocabulary.words == old.vocabulary.words
    assert old.vocabulary.lexicon == {"ipad": "iPad"}
    assert new.vocabulary.lexicon == {"ipad": "iPad", "iphone": "iPhone"}
    weights = old.network.state_dict()
    for name, weight in new.network.state_dict().items():
        if name != "offsets":
            torch.testing.assert_close(weight, weights[name], atol=0.02, rtol=0)


def test_a_model_that_does_not_improve_is_kept(command: Command) -> None:
    """At a rate that destroys the weights, the best tagger is the initial one."""
    assert command()[0] == 0
    before = checkpoint.load_punctuation(Path("marks")).network.state_dict()
    Path("wild.toml").write_text("batch_words = 512\nlearning_rate = 9.0\nmatrix_rate = 9.0\npasses = 3\n")
    assert command("text.txt", "--init", "marks", "--config", "wild.toml", "--output", "more")[0] == 0
    after = checkpoint.load_punctuation(Path("more")).network.state_dict()
    for name, weight in after.items():
        if name != "offsets":
            torch.testing.assert_close(weight, before[name], atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--output", "marks"), 2, "is the folder of --init"),
        (("--output", "more", "--config", "other.toml"), 1, "[model] differs from the model of --init"),
        (("--output", "more", "--init", "nowhere"), 1, "nowhere"),
    ],
)
def test_what_does_not_fit_the_initial_model_is_refused(
    command: Command, options: tuple[str, ...], status: int, says: str
) -> None:
    Path("marks.toml").write_text(SETTINGS.replace("passes = 60", "passes = 3"))
    assert command()[0] == 0
    Path("other.toml").write_text("[model]\nhidden_size = 16\n")
    found, _, err = command("text.txt", "--init", "marks", *options)
    assert (found, says in " ".join(err.split())) == (status, True)


def test_resuming_without_the_initial_model_is_refused(command: Command) -> None:
    """The numbers of the words would differ from those that the weights were trained with."""
    Path("marks.toml").write_text(SETTINGS.replace("passes = 60", "passes = 3"))
    assert command()[0] == 0
    again = ("text.txt", "--output", "more", "--config", "marks.toml")
    assert command(*again, "--init", "marks")[0] == 0
    assert command(*again, "--init", "marks")[0] == 0
    status, _, err = command(*again)
    assert status == 1
    assert "holds a run with other text or another --init" in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "text.txt: has no line that ends with"),
        ("no marks at all\nnone here\n", "text.txt: has no line that ends with"),
        (None, "text.txt: no such file"),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_one_clear_line(command: Command, content: str | None, says: str) -> None:
    if content is None:
        Path("text.txt").unlink()
    else:
        Path("text.txt").write_text(content)
    status, _, err = command()
    assert (status, err.splitlines()[-1].count(says)) == (1, 1)


def test_another_text_needs_another_folder(command: Command) -> None:
    Path("marks.toml").write_text(SETTINGS.replace("passes = 60", "passes = 3"))
    assert command()[0] == 0
    Path("text.txt").write_text("Other text. It is short.\n" * 20)
    status, _, err = command()
    assert status == 1
    assert "holds a run with other text" in err


def test_a_wrong_setting_is_told(command: Command) -> None:
    Path("marks.toml").write_text("pases = 1\n")
    status, _, err = command()
    assert status == 1
    assert "marks.toml: config.pases is not a setting" in err


def test_capitals_at_the_beginning_of_a_sentence_are_believed_only_if_they_are_elsewhere(text: Text) -> None:
    """Capitals at the start of sentences are no evidence, unless the word also has one elsewhere."""
    names = {number: word for word, number in zip(text.vocabulary.words, text.encoded.words.tolist(), strict=False)}
    assert names
    first = text.types[0]  # "yes", which occurs only at the start of sentences
    assert set(text.cases[text.types == first].tolist()) == {IGNORED}
    assert set(text.cases.tolist()) == {Case.LOWER, Case.CAPITAL, Case.UPPER, IGNORED}


def test_a_batch_hangs_on_its_step_alone(text: Text) -> None:
    one, same, other = (training_batch(text, config(), step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert one.words.shape != other.words.shape or not torch.equal(one.words, other.words)


def test_held_out_words_are_never_learned(text: Text) -> None:
    """Held-out words are not in the training text, and most of them are measured once."""
    held_out = int(text.regions[0, 2] - text.regions[0, 1])
    assert (
        0.6 * held_out < sum(int((batch.marks != IGNORED).sum()) for batch in dev_batches(text, config())) <= held_out
    )
    marked = Text(**{**vars(text), "marks": text.marks.copy()})
    marked.marks[text.regions[0, 1] :] = 5  # a colon, which does not occur in the training text
    for step in range(20):
        assert not (training_batch(marked, config(errors=ErrorConfig(clean=1.0)), step).marks == 5).any()


def test_rows_end_as_segments_do(text: Text) -> None:
    """Finished or not, and padding is no target; what precedes a boundary has unknown pauses."""
    kinds = set()
    for step in range(10):
        batch = training_batch(text, config(), step)
        last = batch.pauses[torch.arange(len(batch.lengths)), batch.lengths - 1]
        kinds |= set(last.tolist())
        inside = torch.arange(batch.words.shape[1]) < batch.lengths[:, None]
        assert (batch.marks[~inside] == IGNORED).all()
        assert (batch.marks[inside] != IGNORED).all()
    assert kinds == {Pause.END, Pause.UNFINISHED}


def test_errors_are_made_at_about_their_rate(text: Text) -> None:
    """Errors have about their configured rate; the mark of a deleted word moves to the previous word."""
    none = config(errors=ErrorConfig(clean=1.0), pauses=PauseConfig(unknown=1.0, unrelated=0.0))
    many = config(errors=ErrorConfig(clean=0.0, substituted=0.0, deleted=0.4, inserted=0.0), pauses=none.pauses)

    def count(settings: PunctuationTrainConfig) -> tuple[int, int]:
        batches = [training_batch(text, settings, step) for step in range(30)]
        words = sum(int(batch.lengths.sum()) for batch in batches)
        return words, sum(int(((batch.marks > 0) & (batch.marks != IGNORED)).sum()) for batch in batches)

    (words, marks), (fewer_words, fewer_marks) = count(none), count(many)
    assert 0.4 < fewer_words / words < 0.9
    assert fewer_marks / marks > fewer_words / words


def test_pauses_follow_the_marks(text: Text) -> None:
    settings = config(errors=ErrorConfig(clean=1.0), pauses=PauseConfig(unknown=0.0, unrelated=0.0))
    known: dict[bool, list[int]] = {True: [], False: []}
    for step in range(10):
        batch = training_batch(text, settings, step)
        measured = (batch.pauses >= Pause.SHORTEST) & (batch.marks != IGNORED)
        for marked in (True, False):
            known[marked] += batch.pauses[measured & ((batch.marks > 0) == marked)].tolist()
    assert np.mean(known[True]) > np.mean(known[False]) + 2


def test_offsets_raise_the_f1_of_a_rare_mark() -> None:
    """Offsets raise F1 of a comma with probability 0.4 at each place: never the likeliest, but right 4 times of 10."""
    scores = torch.tensor([[0.6, 0.4, 1e-9]] * 10 + [[1.0, 0.01, 1e-9]] * 90).log()
    wanted = torch.tensor([1] * 4 + [0] * 96)
    assert not scores.argmax(-1).any()
    offsets = best_offsets(scores, wanted, range(3))
    assert (scores + offsets).argmax(-1).sum() == 10
    assert offsets[[0, 2]].tolist() == [0, 0]
    assert not best_offsets(scores, wanted, [0, 2]).any()


def test_offsets_are_measured_with_and_without_pauses(text: Text) -> None:
    """Full stops need an offset of 0.5 for unknown pauses, 1 for known ones and 1.5 at an end: all are found."""
    settings = config()
    network = PunctuationNetwork(settings.model).eval()
    stop = settings.model.marks.index(".")

    def timid(words: Tensor, pieces: Tensor, pauses: Tensor, lengths: Tensor) -> TagLogits:
        marks = torch.full((*words.shape, len(settings.model.marks)), -9.0)
        marks[..., 0] = 0.9
        marks[..., stop] = torch.tensor([0.5, 0.0, -0.5])[kinds_of_offsets(pauses)]
        return TagLogits(marks, torch.zeros(*words.shape, len(Case)))

    text = dataclasses.replace(text, marks=np.full_like(text.marks, stop))
    # Short rows, so that there are several.
    with mock.patch.object(batches, "_DEV_LENGTH", 8), mock.patch.object(network, "forward", timid):
        offsets = measure(network, text, settings).offsets
    assert offsets[:, stop].tolist() == [0.5, 1.0, 1.5]


def test_text_that_was_cut_short_is_named(tmp_path: Path) -> None:
    """A file truncated by a full disk gave a traceback with BadZipFile."""
    source, folder = tmp_path / "text.txt", tmp_path / "run"
    source.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    folder.mkdir()

    def read() -> Text:
        return read_texts([(source, 1)], folder, PunctuationTrainConfig().model, 0.1, lambda done, total: None)

    read()
    arrays = folder / "text.npz"
    arrays.write_bytes(arrays.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"text\.json or text\.npz: damaged; delete both"):
        read()
