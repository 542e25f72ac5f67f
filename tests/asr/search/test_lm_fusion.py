"""Language model fusion: finding and checking the model, its use in every command, and the search's promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

import asr
from asr import checkpoint
from asr.config import SearchConfig
from asr.errors import CheckpointError, ConfigError
from asr.model.las import Encoded
from asr.model.lm import LmState
from asr.recogniser import Recogniser
from asr.search import Prefix, beam_search
from asr.text.tokenizer import SOS, Tokenizer
from streaming.engine import Engine, StreamConfig
from streaming.policy import PolicyConfig
from tests.support.babbler import babbler
from tests.support.commands import Command
from tests.support.small_model import SENTENCES, small_model
from tests.support.streams import finals, listen, rounded
from tests.support.tiny_model import opinionated_lm, sounds, tiny_model

LM = ("lm.safetensors", "lm.json")


@pytest.fixture(scope="module")
def clips(recordings: list[Tensor]) -> list[Tensor]:
    return [waveform[:40_000] for waveform in recordings[:4]]


@pytest.fixture
def folder(tmp_path: Path, clips: list[Tensor]) -> Path:
    """A checkpoint without a language model, a folder `lm` with one, and `talk.wav`."""
    small_model(tmp_path / "model", SearchConfig(beam_size=3))
    tokenizer = Tokenizer.load(tmp_path / "model" / "tokenizer.model")
    checkpoint.save_lm(tmp_path / "lm", opinionated_lm(len(tokenizer)), tokenizer)
    soundfile.write(tmp_path / "talk.wav", clips[0][:24_000].numpy(), 16_000)
    return tmp_path


@pytest.fixture
def command(command: Command, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Command:
    """Runs the command in the folder."""
    monkeypatch.chdir(folder)
    return command


def put_beside(folder: Path) -> None:
    for name in LM:
        (folder / "model" / name).write_bytes((folder / "lm" / name).read_bytes())


# --- The folder


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(SENTENCES, 60, "char")
    lm = opinionated_lm(len(tokenizer))
    checkpoint.save_lm(tmp_path, lm, tokenizer, torch.float16)
    checkpoint.copy_text_models(tmp_path, tmp_path / ".")  # a run may save into the folder of its initial model
    found = checkpoint.load_lm(tmp_path, tokenizer)
    assert (found.config, found.training) == (lm.config, False)
    for name, weight in lm.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, rtol=1e-3, atol=1e-3)
    assert {path.name for path in tmp_path.iterdir()} == set(LM)


def test_saving_a_model_keeps_the_language_model_beside_it(folder: Path) -> None:
    put_beside(folder)
    loaded = checkpoint.load(folder / "model")
    checkpoint.save(folder / "model", loaded.model, loaded.tokenizer)
    recogniser = asr.load(str(folder / "model"), "cpu")
    assert recogniser.language_model(SearchConfig(lm_weight=0.3)) is not None


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("lm.safetensors", None, "lm.safetensors: the file is missing"),
        ("lm.json", None, "lm.json: the file is missing"),
        ("lm.safetensors", b"\x80\x04K\x01.", "lm.safetensors: "),
        ("lm.json", b"{", "lm.json: not JSON"),
        ("lm.json", b"[]", "lm.json: not the description of a language model"),
        ("lm.json", {"lm": {"size": 3}}, "lm.json: lm.size is not a setting"),
        ("lm.json", {"vocabulary": "another"}, "this language model has another vocabulary"),
        ("lm.json", {"hidden_size": 8}, "has shape"),
        ("lm.json", {"layers": 1}, "lm.safetensors: the tensor lstm.bias_hh_l1 is not part of the model"),
    ],
)
def test_a_broken_one_is_named(folder: Path, file: str, content: object, says: str) -> None:
    path = folder / "lm" / file
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        described = json.loads(path.read_text(encoding="utf-8"))
        known = dict(content)  # type: ignore[call-overload]
        (described["lm"] if known.keys() <= described["lm"].keys() else described).update(known)
        path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        asr.load(str(folder / "model"), "cpu", lm=folder / "lm")
    assert says in str(caught.value)
    assert str(folder / "lm") in str(caught.value)


# --- The commands


def test_the_option_names_one_and_the_weight_turns_it_on(command: Command) -> None:
    """With `--lm-weight 0` nothing changes; `--lm` without any weight is refused as a likely mistake."""
    transcribe = ("transcribe", "talk.wav", "--model", "model", "--device", "cpu")
    plain = command(*transcribe)
    assert plain[0] == 0
    status, out, err = command(*transcribe, "--lm", "lm")
    assert (status, out) == (2, "")
    assert "--lm: its weight in the model model is 0: add --lm-weight" in err
    fused = command(*transcribe, "--lm", "lm", "--lm-weight", 2)
    assert fused[0] == 0
    assert fused[1] != plain[1]
    assert command(*transcribe, "--lm", "lm", "--lm-weight", 0) == plain


def test_the_one_beside_the_model_is_used_and_not_read_without_a_weight(command: Command, folder: Path) -> None:
    transcribe = ("transcribe", "talk.wav", "--model", "model", "--device", "cpu")
    plain, named = command(*transcribe), command(*transcribe, "--lm", "lm", "--lm-weight", 2)
    put_beside(folder)
    config = folder / "model" / "config.json"
    described = json.loads(config.read_text(encoding="utf-8"))
    described["search"]["lm_weight"] = 2.0
    config.write_text(json.dumps(described), encoding="utf-8")
    assert command(*transcribe) == named  # by the model's own settings
    (folder / "model" / "lm.safetensors").write_bytes(b"broken")
    assert command(*transcribe, "--lm-weight", 0) == plain
    status, out, err = command(*transcribe)
    assert (status, out) == (1, "")
    assert err.startswith("spellstream: model/lm.safetensors: ")


def test_a_weight_without_a_language_model(command: Command, folder: Path) -> None:
    status, out, err = command("transcribe", "talk.wav", "--model", "model", "--device", "cpu", "--lm-weight", 0.3)
    assert (status, out) == (2, "")
    assert "the model model has no language model and none was named" in err
    with pytest.raises(ConfigError, match="has no language model"):
        asr.load(str(folder / "model"), "cpu").transcribe(
            folder / "talk.wav", search=SearchConfig(beam_size=2, lm_weight=0.3)
        )


def test_evaluate_and_listen_use_it_too(command: Command, folder: Path) -> None:
    row = {"id": "a", "audio": "talk.wav", "duration": 1.5, "text": "the cat"}
    (folder / "all.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    options = ("--model", "model", "--device", "cpu", "--lm", "lm", "--lm-weight")
    evaluate = ("evaluate", "all.jsonl", "--json", "-", "--quiet", *options)
    plain, fused = (json.loads(command(*evaluate, weight)[1]) for weight in (0, 2))
    assert fused["settings"]["search"]["lm_weight"] == 2
    assert fused["utterances"][0]["hypothesis"] != plain["utterances"][0]["hypothesis"]
    hear = ("listen", "--file", "talk.wav", "--speed", 0, "--model", "model", "--device", "cpu")
    plain, fused = command(*hear), command(*hear, "--lm", "lm", "--lm-weight", 2)
    assert (plain[0], fused[0]) == (0, 0)
    assert plain[1] != fused[1]


def test_info_shows_it(command: Command, folder: Path) -> None:
    facts = json.loads(command("info", "--model", "model", "--json")[1])["model"]
    assert facts["language_model"] is None
    put_beside(folder)
    facts = json.loads(command("info", "--model", "model", "--json")[1])["model"]
    assert facts["language_model"]["hidden_size"] == 24
    assert facts["language_model"]["parameters"] > 1_000


# --- The promises


INTERNAL = pytest.mark.parametrize("internal", [0.0, 0.5])  # of the decoder's internal LM, which is subtracted


def fused_babbler(weight: float = 0.7, policy: PolicyConfig | None = None, internal: float = 0.0) -> Engine:
    recogniser = babbler()
    torch.nn.init.normal_(recogniser.model.decoder.mean_context, generator=torch.Generator().manual_seed(3))
    lm = opinionated_lm(len(recogniser.tokenizer))
    fused = Recogniser(recogniser.model, recogniser.tokenizer, recogniser.device, "float32", Path(), lm)
    search = SearchConfig(
        beam_size=3, candidates=8, max_tokens_per_second=5, lm_weight=weight, internal_lm_share=internal
    )
    return Engine(fused, StreamConfig(policy=policy or PolicyConfig("ctc", 120, doubt_ms=0), final=search))


@INTERNAL
def test_however_the_audio_is_cut_the_events_are_the_same(clips: list[Tensor], internal: float) -> None:
    engine = fused_babbler(internal=internal)
    waveform = torch.cat([clips[0][:30_000], torch.zeros(20_000), clips[1][:20_123]])
    whole = listen(engine, [waveform])
    assert all(final.text for final in finals(whole))
    assert finals(whole) != finals(listen(fused_babbler(weight=0.7 if internal else 0.0), [waveform]))
    for samples in (160, 5_120):
        assert listen(engine, waveform.split(samples)) == whole


@INTERNAL
def test_the_size_of_the_batch_never_changes_the_answer(clips: list[Tensor], internal: float) -> None:
    """Promise 2 with a language model, for streams and whole files."""
    engine = fused_babbler(internal=internal)
    streams = [clip[: 24_000 + 3_000 * i] for i, clip in enumerate(clips)]
    alone = [listen(engine, [stream]) for stream in streams]
    _, together = engine.step([engine.start() for _ in streams], streams, [True] * len(streams))
    assert [rounded(events) for events in together] == [rounded(events) for events in alone]
    recogniser, search = engine.recogniser, engine.final
    batch = recogniser.decode(streams, search, False)
    for found, stream in zip(batch, streams, strict=True):
        (expected,) = recogniser.decode([stream], search, False)
        assert found.text == expected.text
        assert found.score == pytest.approx(expected.score, abs=1e-4)


@INTERNAL
@torch.inference_mode()
def test_it_knows_the_committed_words(clips: list[Tensor], internal: float) -> None:
    """After every commit, the language model's state is that of all committed words."""
    engine = fused_babbler(policy=PolicyConfig("ctc", 0, doubt_ms=0), internal=internal)
    lm = engine.recogniser.language_model(engine.final)
    assert lm is not None
    sessions, seen = [engine.start() for _ in clips], set()
    for chunks in zip(*(clip.split(4_000) for clip in clips), strict=True):
        sessions, _ = engine.step(sessions, chunks)
        for session in sessions:
            if session.segment is None or not (tokens := session.segment.committed.tokens):
                continue
            seen.add(tokens)
            expected = lm.initial_state(1)
            for token in (SOS, *tokens[:-1]):
                _, expected = lm.step(torch.tensor([token]), expected)
            found = session.segment.committed.lm
            assert found is not None
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert len(seen) >= 4
    assert max(map(len, seen)) >= 5


@torch.inference_mode()
def test_searching_on_from_a_prefix_takes_the_path_of_the_whole_search() -> None:
    """With a beam of 1, a search from a prefix equals the whole search; it needs the LM's state after the prefix."""
    model, lm, (waveform, samples) = tiny_model(), opinionated_lm(20), sounds(8)
    encoded = model.encode(waveform, samples)
    config = SearchConfig(beam_size=1, ctc_weight=0.0, lm_weight=1.0, max_repeats=99)
    starts = torch.ones(20, dtype=torch.bool)
    whole = [found[0].tokens for found in beam_search(model, encoded, config, lm)]
    memory, forgetful = model.decoder.prepare(*encoded), 0
    for count in (2, 4, 6):
        rows = [i for i, w in enumerate(whole) if len(w) > count]
        known = torch.tensor([[SOS, *whole[i][:count]] for i in rows])
        state = model.decoder.initial_state(memory).select(torch.tensor(rows))
        some = Encoded(*(x[rows] for x in encoded))
        for u in range(count):
            _, state = model.decoder.step(known[:, u], state, model.decoder.prepare(*some))
        _, told = lm(known[:, :-1], lm.initial_state(len(rows)))

        def rest(lm_state: LmState | None) -> list[list[int]]:
            prefix = Prefix(known[:, -1], state, torch.zeros(len(rows), dtype=torch.long), starts, lm_state)  # noqa: B023
            return [found[0].tokens for found in beam_search(model, some, config, lm, prefix)]  # noqa: B023

        # If the whole search reached its length limit, the other one has room for a few more tokens.
        lengths = [len(whole[i]) - count for i in rows]
        expected = [whole[i][count:] for i in rows]
        assert [tokens[:n] for tokens, n in zip(rest(told), lengths, strict=True)] == expected
        forgetful += [tokens[:n] for tokens, n in zip(rest(None), lengths, strict=True)] != expected
    assert forgetful > 0
