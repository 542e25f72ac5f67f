"""A recording to text with onnxruntime and numpy alone: greedy attention, or CTC prefix beam search.

spellstream export onnx default --output graphs
python recipes/examples/onnx_transcribe.py graphs talk.wav --search ctc
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

LONGEST_PHRASE = 8  # longest repeated phrase, in tokens, that ends a text: attention can get stuck
WINDOW = 512  # samples whose level is measured together


class Graphs:
    """The graphs in a folder, called by name; metadata.json describes their inputs and outputs."""

    def __init__(self, folder):
        self.facts = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        self.sessions = {
            name: onnxruntime.InferenceSession(folder / graph["file"], providers=["CPUExecutionProvider"])
            for name, graph in self.facts["graphs"].items()
        }

    def __call__(self, name, **inputs):
        return self.sessions[name].run(None, inputs)

    def zeros(self, name, port, rows=1):
        """The initial state."""
        shape = next(each["shape"] for each in self.facts["graphs"][name]["inputs"] if each["name"] == port)
        return np.zeros((rows, *shape[1:]), np.float32)

    def text(self, tokens):
        known = self.facts["tokens"]
        pieces = (known["pieces"][token] for token in tokens if token > known["eos"])
        return " ".join("".join(pieces).replace(known["word_start"], " ").split())


def levelled(waveform, target_db):
    """A waveform `(samples,)` with its speech, the windows at most 20 dB below the loudest, at the model's level."""
    if target_db is None or len(waveform) < WINDOW:
        return waveform
    powers = np.square(waveform[: len(waveform) // WINDOW * WINDOW].reshape(-1, WINDOW)).mean(axis=1)
    if powers.max() < 1e-9:  # silence
        return waveform
    level_db = 10 * np.log10(powers[powers >= powers.max() / 100].mean())
    return waveform * np.float32(10 ** (np.clip(target_db - level_db, -30, 30) / 20))


def encode(graphs, waveform):
    """A waveform `(samples,)` to encoder output `(1, T, D)` and its length `(1,)`."""
    waveform = levelled(waveform, graphs.facts["features"]["speech_db"])
    samples = np.array([len(waveform)])
    features, lengths = graphs("features", waveform=waveform[None], samples=samples)
    return graphs("encoder", features=features, lengths=lengths)


def greedy(graphs, encoder_out, lengths):
    """The decoder's most likely token at every step."""
    facts, settings = graphs.facts["tokens"], graphs.facts["search"]
    *memory, alignment = graphs("memory", encoder_out=encoder_out, encoder_out_lengths=lengths)
    memory = dict(zip(("keys", "values", "inside"), memory, strict=True))
    hidden, context = graphs.zeros("decoder_step", "hidden"), graphs.zeros("decoder_step", "context")
    seconds = lengths[0] * graphs.facts["encoder"]["frame_ms"] / 1000
    tokens = [facts["sos"]]
    for _ in range(int(np.ceil(seconds * settings["max_tokens_per_second"])) + 4):
        state = {"hidden": hidden, "context": context, "alignment": alignment}
        log_probs, hidden, context, alignment = graphs("decoder_step", tokens=np.array(tokens[-1:]), **state, **memory)
        log_probs[:, : facts["eos"]] = -np.inf  # the blank, unknown and sos
        tokens.append(int(log_probs[0].argmax()))
        if tokens[-1] == facts["eos"] or repeats(tokens[1:], settings["max_repeats"]):
            break
    return tokens[1:]


def repeats(tokens, times):
    """Whether a text ends in a phrase repeated too often."""
    return any(
        len(tokens) >= phrase * (times + 1) and tokens[-phrase * times :] == tokens[-phrase * (times + 1) : -phrase]
        for phrase in range(1, LONGEST_PHRASE + 1)
    )


class Prefix:
    """A text of the CTC search: log-probabilities of the paths that spell it and end in a blank, or in its token."""

    def __init__(self):
        self.blank = self.token = -np.inf

    @property
    def either(self):
        return np.logaddexp(self.blank, self.token)


def ctc_prefixes(graphs, encoder_out, beam_size, least=-7.0):
    """CTC prefix beam search (Hannun et al. 2014): the text whose paths have the greatest sum of probabilities.

    At every frame, the `beam_size` best prefixes are extended by the tokens whose log-probability is at least `least`.
    """
    blank = graphs.facts["tokens"]["blank"]
    (log_probs,) = graphs("ctc", encoder_out=encoder_out)
    beam = {(): Prefix()}
    beam[()].blank = 0.0
    for frame in log_probs[0].astype(float):
        after = defaultdict(Prefix)
        for prefix, known in beam.items():
            same = after[prefix]
            same.blank = np.logaddexp(same.blank, known.either + frame[blank])
            if prefix:  # the last token continues for another frame
                same.token = np.logaddexp(same.token, known.token + frame[prefix[-1]])
            for token in np.flatnonzero(frame >= least):
                if token != blank:  # a repeated token is a new one only after a blank
                    longer = after[(*prefix, int(token))]
                    begun = known.blank if prefix and token == prefix[-1] else known.either
                    longer.token = np.logaddexp(longer.token, begun + frame[token])
        best = sorted(after, key=lambda prefix: -after[prefix].either)[:beam_size]
        beam = {prefix: after[prefix] for prefix in best}
    return max(beam, key=lambda prefix: beam[prefix].either)


def transcribe(graphs, path, search="attention", beam_size=8):
    """The text of a recording of up to half a minute, the range of lengths in training."""
    if not Path(path).is_file():
        raise SystemExit(f"{path}: no such file")
    try:
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SystemExit(f"{path}: {error.error_string}") from None
    settings = graphs.facts["features"]
    if rate != settings["sample_rate"]:
        raise SystemExit(f"{path}: {rate} Hz; the model hears {settings['sample_rate']} Hz")
    waveform = waveform.mean(axis=1)
    if len(waveform) < settings["least_samples"]:
        return ""
    encoder_out, lengths = encode(graphs, waveform)
    if search == "ctc":
        return graphs.text(ctc_prefixes(graphs, encoder_out, beam_size))
    return graphs.text(greedy(graphs, encoder_out, lengths))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path, help="folder made by spellstream export onnx")
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--search", choices=("attention", "ctc"), default="attention")
    parser.add_argument("--beam-size", type=int, default=8, help="of the CTC search")
    options = parser.parse_args()
    loaded = Graphs(options.graphs)
    for recording in options.recordings:
        print(transcribe(loaded, recording, options.search, options.beam_size))
