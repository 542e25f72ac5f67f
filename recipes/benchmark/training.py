"""Training throughput: ours beside the modules of SpeechBrain's LibriSpeech seq2seq recipe, same sizes, same batches.

    python -m recipes.benchmark.training --size small full

A step covers log-mel features, forward, CTC and attention loss, backward, clipping and the optimiser. Both systems get
the same waveforms and tokens in the same run and take turns step by step, so that other load on the machine affects
both equally. README.md beside this file describes the systems.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from asr.config import AttentionConfig, DecoderConfig, EncoderConfig, ModelConfig
from asr.errors import DependencyError, DeviceError
from asr.model.las import Encoded, Model
from asr.recogniser import resolve_device
from asr.text.tokenizer import EOS, SOS
from asr.training.config import TrainConfig
from asr.training.data import Batch
from asr.training.module import joint_loss
from asr.training.precision import has_bfloat16
from recipes.benchmark.origin import Report, origin, report

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SIZES", "Measurement", "batches", "main", "measure", "table", "to_json"]

OURS, PEER = "Spellstream", "SpeechBrain"
SAMPLE_RATE = 16_000
CTC_WEIGHT, LABEL_SMOOTHING, DROPOUT, CLIP_NORM = 0.3, 0.1, 0.15, 5.0
TOKENS_PER_SECOND = 3.3  # LibriSpeech with a vocabulary of 1,000
N_MELS = 80


class Size(NamedTuple):
    """Sizes of both systems; `joins` is the time reduction before each encoder layer."""

    joins: tuple[int, ...]
    encoder: int  # in each direction
    decoder: int
    embedding: int
    attention: int
    location_width: int
    vocab_size: int


SIZES = {
    "tiny": Size((2, 2), 16, 16, 8, 16, 11, 50),
    "small": Size((2, 2, 1, 1), 256, 256, 128, 160, 61, 400),
    "full": Size((2, 2, 2, 1, 1), 512, 1024, 512, 512, 201, 10_000),
}


@dataclass(frozen=True)
class System:
    """One of the systems: `step` trains on a batch, `forward` only computes the loss."""

    name: str
    step: Callable[[Batch], None]
    forward: Callable[[Batch], Tensor]
    parameters: int


@dataclass
class Measurement:
    """Measurements of a system: CPU and wall seconds of each step; memory in bytes."""

    name: str
    parameters: int
    memory_bytes: int = 0
    audio_seconds: float = 0.0
    cpu_seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)

    def seconds(self, cpu: bool) -> list[float]:
        return self.cpu_seconds if cpu else self.wall_seconds

    def hours_per_hour(self, cpu: bool) -> float:
        """Hours of audio per hour of CPU, or of wall time."""
        return self.audio_seconds / max(sum(self.seconds(cpu)), 1e-9)


def speedup(measured: Measurement, peer: Measurement, cpu: bool) -> float:
    """Speed-up over the peer: median over steps, which both take in turn."""
    return median(theirs / ours for theirs, ours in zip(peer.seconds(cpu), measured.seconds(cpu), strict=True))


def batches(count: int, seconds: float, vocab_size: int, device: torch.device) -> list[Batch]:
    """Batches of about `seconds` of noise with random tokens; utterances of 2 to 16 s, within a tenth of each other."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        longest = float(2 + 14 * torch.rand((), generator=generator))
        rows = max(1, round(seconds / longest))
        samples = (longest * SAMPLE_RATE * (1 - 0.1 * torch.rand(rows, generator=generator))).long()
        samples[0] = int(longest * SAMPLE_RATE)
        inside = torch.arange(int(samples.max())) < samples[:, None]
        waveform = 0.1 * torch.randn(rows, inside.shape[1], generator=generator) * inside
        lengths = (samples / SAMPLE_RATE * TOKENS_PER_SECOND).long().clamp(min=1)
        tokens = torch.randint(EOS + 1, vocab_size, (rows, int(lengths.max())), generator=generator)
        tokens *= torch.arange(tokens.shape[1]) < lengths[:, None]
        made.append(Batch(*(x.to(device) for x in (waveform, samples, tokens, lengths))))
    return made


def spellstream(size: Size, device: torch.device, dtype: torch.dtype) -> System:
    """Our model, loss and optimiser as in `asr.training`, without augmentation."""
    model = Model(
        ModelConfig(
            size.vocab_size,
            encoder=EncoderConfig(size.joins, size.encoder, dropout=DROPOUT),
            attention=AttentionConfig(size=size.attention, location_width=size.location_width),
            decoder=DecoderConfig(1, size.decoder, size.embedding, DROPOUT),
        )
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98), fused=True)

    def forward(batch: Batch) -> Tensor:
        features, lengths = model.features(batch.waveform, batch.samples)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            encoded = Encoded(*model.encoder(features, lengths))
            losses = joint_loss(model, encoded, batch, LABEL_SMOOTHING, 0.0)
        return (1 - CTC_WEIGHT) * losses.attention + CTC_WEIGHT * losses.ctc

    return _system(OURS, model, optimizer, forward)


class Peer(nn.Module):
    """SpeechBrain's modules as in its recipe, with its CRDNN replaced by its LSTM layers.

    Where time shrinks, neighbouring frames are joined as in ours, so that both networks have the same sizes and
    weights. The decoder has an LSTM cell in place of the recipe's GRU, as ours has. Source:
    recipes/LibriSpeech/ASR/seq2seq/train.py and hparams/train_BPE_1000.yaml of SpeechBrain 1.0.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        try:
            from speechbrain.lobes.features import Fbank
            from speechbrain.nnet import RNN, linear, normalization
            from speechbrain.nnet.embedding import Embedding
            from speechbrain.processing.features import InputNormalization
        except ImportError:
            raise DependencyError(f"{PEER} is not installed: pip install 'spellstream[benchmark]'") from None
        width = 2 * size.encoder
        inputs = [n * join for n, join in zip([N_MELS] + [width] * len(size.joins), size.joins, strict=False)]
        self.compute_features = Fbank(sample_rate=SAMPLE_RATE, n_fft=400, n_mels=N_MELS)
        self.normalize = InputNormalization(norm_type="global")
        self.joins = size.joins
        self.layers = nn.ModuleList(RNN.LSTM(size.encoder, input_size=n, bidirectional=True) for n in inputs)
        self.norms = nn.ModuleList(normalization.LayerNorm(width) for _ in inputs)
        self.dropout = nn.Dropout(DROPOUT)
        self.emb = Embedding(num_embeddings=size.vocab_size, embedding_dim=size.embedding)
        self.dec = RNN.AttentionalRNNDecoder(
            rnn_type="lstm",
            attn_type="location",
            hidden_size=size.decoder,
            attn_dim=size.attention,
            num_layers=1,
            enc_dim=width,
            input_size=size.embedding,
            channels=AttentionConfig.location_channels,
            kernel_size=size.location_width // 2,
            dropout=DROPOUT,
        )
        self.ctc_lin = linear.Linear(input_size=width, n_neurons=size.vocab_size)
        self.seq_lin = linear.Linear(input_size=size.decoder, n_neurons=size.vocab_size)

    def forward(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """The loss of a batch: compute_forward and compute_objectives of the recipe."""
        from speechbrain.nnet.losses import ctc_loss, nll_loss

        lengths = batch.samples / batch.waveform.shape[1]  # SpeechBrain's lengths are relative
        token_lengths = batch.token_lengths / batch.tokens.shape[1]
        begun = nn.functional.pad(batch.tokens, (1, 0), value=SOS)
        ended = nn.functional.pad(batch.tokens, (0, 1)).scatter(1, batch.token_lengths[:, None], EOS)
        features = self.normalize(self.compute_features(batch.waveform), lengths, epoch=0).detach()
        with torch.autocast(features.device.type, dtype, enabled=dtype != torch.float32):
            x = features
            for join, layer, norm in zip(self.joins, self.layers, self.norms, strict=True):
                x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % join))
                x = self.dropout(norm(layer(x.reshape(len(x), -1, join * x.shape[2]))[0]))
            h, _ = self.dec(self.emb(begun), x, lengths)
            sequence = self.seq_lin(h).log_softmax(-1)
            ctc = self.ctc_lin(x).log_softmax(-1)
        attention = nll_loss(
            sequence, ended, length=(batch.token_lengths + 1) / ended.shape[1], label_smoothing=LABEL_SMOOTHING
        )
        return (1 - CTC_WEIGHT) * attention + CTC_WEIGHT * ctc_loss(
            ctc.float(), batch.tokens, lengths, token_lengths, blank_index=0
        )


def speechbrain(size: Size, device: torch.device, dtype: torch.dtype) -> System:
    """The peer with the optimiser of its recipe.

    Raises:
        DependencyError: if it is not installed.
    """
    model = Peer(size).to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95, eps=1e-8)
    return _system(PEER, model, optimizer, lambda batch: model(batch, dtype))


def _system(
    name: str, model: nn.Module, optimizer: torch.optim.Optimizer, forward: Callable[[Batch], Tensor]
) -> System:
    model.train()

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        forward(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()

    return System(name, step, forward, sum(weight.numel() for weight in model.parameters()))


def measure(systems: Sequence[System], work: Sequence[Batch], device: torch.device) -> list[Measurement]:
    """Train the systems in turn on the batches; the longest comes first, for warm-up and memory."""
    measurements = [Measurement(system.name, system.parameters) for system in systems]
    widest = max(work, key=lambda batch: batch.waveform.numel())
    for system, measured in zip(systems, measurements, strict=True):
        system.step(widest)
        measured.memory_bytes = _memory(system, widest, device)
    for number, batch in enumerate(work):
        turn = number % len(systems)
        for i in (*range(turn, len(systems)), *range(turn)):
            _measure_step(systems[i], batch, measurements[i], device)
        print(f"step {number + 1} of {len(work)}", file=sys.stderr)
    return measurements


def _measure_step(system: System, batch: Batch, measured: Measurement, device: torch.device) -> None:
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    system.step(batch)
    _wait(device)
    measured.cpu_seconds.append(time.process_time() - cpu)
    measured.wall_seconds.append(time.perf_counter() - wall)
    measured.audio_seconds += float(batch.samples.sum()) / SAMPLE_RATE


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(system: System, batch: Batch, device: torch.device) -> int:
    """Peak memory of a step on a GPU; on a CPU, activations kept for backward, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        system.step(batch)
        return torch.cuda.max_memory_allocated(device) - before
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = system.forward(batch)
    del loss
    return sum(kept.values())


def table(results: dict[str, list[Measurement]], cpu: bool) -> Table:
    """Throughput in hours of audio per hour, memory, and speed-up over the peer."""
    from rich.table import Table

    made = Table()
    for heading in ("size", "system"):
        made.add_column(heading, no_wrap=True)
    clock = "an hour of CPU" if cpu else "an hour"
    for heading in ("weights, M", f"hours of audio in {clock}", "memory, MiB", f"times {PEER}"):
        made.add_column(heading, justify="right")
    for size, measurements in results.items():
        peer = next(measured for measured in measurements if measured.name == PEER)
        for measured in measurements:
            rate, faster = measured.hours_per_hour(cpu), speedup(measured, peer, cpu)
            weights, memory = f"{measured.parameters / 1e6:.1f}", f"{measured.memory_bytes / 2**20:.0f}"
            made.add_row(size, measured.name, weights, f"{rate:.1f}", memory, f"{faster:.2f}")
    return made


def to_json(results: dict[str, list[Measurement]], facts: dict[str, str]) -> dict[str, Any]:
    """Plain values for `json.dumps`: origin and results."""
    rows = [
        {
            "size": size,
            "system": measured.name,
            "parameters": measured.parameters,
            "memory_bytes": measured.memory_bytes,
            "audio_seconds": measured.audio_seconds,
            "cpu_seconds": measured.cpu_seconds,
            "wall_seconds": measured.wall_seconds,
        }
        for size, measurements in results.items()
        for measured in measurements
    ]
    return {"origin": facts, "systems": rows}


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m recipes.benchmark.training", description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["small"], help="of the models")
    parser.add_argument("--steps", type=int, default=10, help="steps of each system")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="of audio in a batch, padding included")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "default"),
        default="float32",
        help="of autocast, for both; default: for each what its own trainer runs in",
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args(arguments)

    def benchmark() -> Report:
        results, facts = _benchmark(options, arguments)
        return Report(to_json(results, facts), table(results, cpu=resolve_device(options.device).type == "cpu"), facts)

    return report(benchmark, options.json)


def _dtypes(name: str, device: torch.device) -> dict[str, torch.dtype]:
    """The number format of each system: the same, or with "default" that of its own trainer."""
    bfloat16 = has_bfloat16(device.type)
    if name == "default":
        ours = torch.bfloat16 if TrainConfig.precision == "bf16" and bfloat16 else torch.float32
        return {OURS: ours, PEER: torch.float32}
    if name == "bfloat16" and not bfloat16:
        raise DeviceError("bfloat16: this processor has no kernels for training in it; use --dtype float32")
    return dict.fromkeys((OURS, PEER), getattr(torch, name))


def _benchmark(
    options: argparse.Namespace, arguments: Sequence[str]
) -> tuple[dict[str, list[Measurement]], dict[str, str]]:
    device = resolve_device(options.device)
    dtypes = _dtypes(options.dtype, device)
    torch.set_num_threads(options.threads)
    results = {}
    for name in options.size:
        size = SIZES[name]
        torch.manual_seed(1)
        systems = [speechbrain(size, device, dtypes[PEER]), spellstream(size, device, dtypes[OURS])]
        work = batches(options.steps, options.batch_seconds, size.vocab_size, device)
        results[name] = measure(systems, work, device)
    return results, {
        **origin("training", arguments, device),
        "precision": ", ".join(f"{name} {str(dtype).removeprefix('torch.')}" for name, dtype in dtypes.items()),
        "versions": f"torch {torch.__version__}, speechbrain {version('speechbrain')}, {platform.python_version()}",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
