"""Comparison of attention scorers: the same small decoder trained with each, with and without the hybrid block.

    python -m recipes.attention_zoo.run --train train.jsonl --dev dev.jsonl --work WORK

Every variant is trained for the same number of steps on the same batches, above the frozen encoder of a trained model,
whose output is computed once. A stopped run resumes with the current variant. WORK/report holds RESULTS.md
and a picture of each variant's attention. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from asr import __version__, checkpoint
from asr.checkpoint import Checkpoint
from asr.errors import DataError, SpellstreamError
from asr.files import write_atomically
from asr.plot import attention_figure
from asr.recogniser import resolve_device
from asr.terminal import say
from asr.text import metrics
from recipes.attention_zoo import zoo
from recipes.attention_zoo.zoo import VARIANTS, Measured, Settings, Spoken, Variant
from recipes.benchmark.origin import processor

__all__ = ["main"]

BEAM_SIZE = 4
CTC_WEIGHT = 0.3
DPI = 70


def main(arguments: Sequence[str]) -> int:
    """Run the unfinished part of the experiment; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        report = run(options)
    except SpellstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command resumes with the current variant", file=sys.stderr)
        return 130
    print(report.read_text(encoding="utf-8"))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.attention_zoo.run", description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True, help="manifest to train on")
    parser.add_argument("--dev", type=Path, required=True, help="manifest to measure on")
    parser.add_argument("--work", type=Path, required=True, help="folder for all output")
    parser.add_argument("--model", default="default", help="whose encoder to start from: a name or a checkpoint folder")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="of each variant")
    parser.add_argument("--max-seconds", type=float, default=5.0, help="longest utterance to train on")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="of the CPU")
    return parser


def run(options: argparse.Namespace) -> Path:
    """Encode, train and measure every variant without a result, and write the report.

    Raises:
        SpellstreamError: an input is invalid, or WORK holds results of other settings.
    """
    device = resolve_device(options.device)
    settings = Settings(steps=options.steps)
    start = checkpoint.load(options.model)
    start.model.to(device)
    work: Path = options.work
    report = work / "report"
    report.mkdir(parents=True, exist_ok=True)
    _claim(work, start, options)
    spoken = zoo.encode(start, options.train, work / "train.safetensors", options.max_seconds, device)
    dev = zoo.encode(start, options.dev, work / "dev.safetensors", None, device)
    shown = _example(dev)
    for variant in VARIANTS:
        result = work / f"{variant.name}.json"
        if not result.exists():
            say(f"{variant.name}: {settings.steps} steps")
            found = _one(variant, start, spoken, dev, shown, settings, options)
            write_atomically(result, json.dumps(found, indent=2) + "\n")
    results = [json.loads((work / f"{variant.name}.json").read_text(encoding="utf-8")) for variant in VARIANTS]
    facts = {
        "command": f"`python -m recipes.attention_zoo.run --train {options.train.name} --dev {options.dev.name} "
        f"--work {work.name} --model {Path(options.model).name} --steps {settings.steps} "
        f"--max-seconds {options.max_seconds:g}`",
        "training": f"{len(spoken)} utterances, {sum(one.seconds for one in spoken) / 3600:.2f} h",
        "dev": f"{len(dev)} utterances, {sum(one.seconds for one in dev) / 60:.1f} min",
        "settings": ", ".join(f"{name} {value}" for name, value in asdict(settings).items()),
        "picture": f"{shown.id}: {shown.text}",
        "machine": f"{device.type}, {torch.get_num_threads()} threads, {processor()}",
        "versions": f"spellstream {__version__}, torch {torch.__version__}",
    }
    write_atomically(report / "RESULTS.md", _markdown(results, facts, options.max_seconds))
    return report / "RESULTS.md"


def _claim(work: Path, start: Checkpoint, options: argparse.Namespace) -> None:
    """Record the settings in WORK, so that results of other settings are not mixed in."""
    weights = hashlib.sha256()
    for weight in start.model.state_dict().values():
        weights.update(weight.cpu().numpy().tobytes())
    given = {name: str(getattr(options, name)) for name in ("train", "dev", "steps", "max_seconds")}
    made, path = json.dumps({**given, "model": weights.hexdigest()}, indent=2) + "\n", work / "made.json"
    if path.exists() and path.read_text(encoding="utf-8") != made:
        raise DataError(f"{work}: holds results of another model, other data or settings: choose another --work")
    write_atomically(path, made)


def _one(
    variant: Variant,
    start: Checkpoint,
    spoken: Sequence[Spoken],
    dev: Sequence[Spoken],
    shown: Spoken,
    settings: Settings,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train and measure one variant, save its picture and model, and return its numbers."""
    model = zoo.build(start, variant, settings.seed).to(next(start.model.parameters()).device)
    cpu_seconds, audio_seconds = zoo.train(model, spoken, start, settings)
    alone = zoo.measure(model, dev, start, 0.0, BEAM_SIZE)
    joint = zoo.measure(model, dev, start, CTC_WEIGHT, BEAM_SIZE)
    aligned, pieces = zoo.alignment(model, shown, start)
    picture = io.BytesIO()
    attention_figure(aligned.numpy(), pieces, model.config.frame_seconds).savefig(picture, format="png", dpi=DPI)
    write_atomically(options.work / "report" / f"{variant.name}.png", picture.getvalue())
    zoo.save(options.work / variant.name, model, start)
    return {
        "name": variant.name,
        "attention_parameters": sum(weight.numel() for weight in model.decoder.attention.parameters()),
        "hybrid_parameters": sum(weight.numel() for weight in model.encoder.hybrid.parameters()),
        "audio_per_cpu": audio_seconds / cpu_seconds,
        "attention_wer": _rates(alone, options.max_seconds),
        "joint_wer": _rates(joint, options.max_seconds),
        "decoding_cpu_per_audio": alone.cpu_seconds / sum(one.seconds for one in dev),
    }


def _rates(measured: Measured, max_seconds: float) -> dict[str, float]:
    """Word error rates by length: within the training lengths, longer, and all."""
    groups = {
        "short": [one for one in measured.scored if one.duration_seconds <= max_seconds],
        "long": [one for one in measured.scored if one.duration_seconds > max_seconds],
        "all": measured.scored,
    }
    return {name: metrics.summarise(rows)[-1].words.rate for name, rows in groups.items() if rows}


def _example(dev: Sequence[Spoken]) -> Spoken:
    """The utterance for the pictures: the one with most words among those of 4 to 8 s, or among all."""
    fitting = [one for one in dev if 4 <= one.seconds <= 8] or list(dev)
    return max(fitting, key=lambda one: (len(one.text.split()), one.id))


def _markdown(results: Sequence[dict[str, Any]], facts: dict[str, str], max_seconds: float) -> str:
    def percent(rates: dict[str, float], name: str) -> str:
        return f"{100 * rates[name]:.1f}" if name in rates else "–"

    lines = [
        "# Attention zoo: results",
        "",
        f"WER in per cent on dev with a beam of {BEAM_SIZE}: of attention alone, and with CTC at {CTC_WEIGHT}; short "
        f"are utterances of at most {max_seconds:g} s, the longest that were trained on. Training speed in hours of "
        "audio for an hour of CPU, decoding in seconds of CPU for a second of audio, both without the frozen pyramid.",
        "",
        "| attention | weights, thousands | alone: short | long | all | with CTC | training | decoding | picture |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        weights = (one["attention_parameters"] + one["hybrid_parameters"]) / 1000
        alone = " | ".join(percent(one["attention_wer"], name) for name in ("short", "long", "all"))
        lines.append(
            f"| {one['name']} | {weights:.0f} | {alone} | {percent(one['joint_wer'], 'all')} | "
            f"{one['audio_per_cpu']:.0f} | {one['decoding_cpu_per_audio']:.4f} | [png]({one['name']}.png) |"
        )
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in facts.items())]) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
