"""The folder of a SpeechBrain model, made without SpeechBrain: random tensors under its names."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tests.support.speechbrain_model import YAML, Sizes, train_tokenizer

__all__ = ["lm_tensors", "model_tensors", "speechbrain_folder"]

SHARPNESS = 2.5  # of the weights, so that different audio gives different words


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module; weights of two or more dimensions are scaled up."""
    state = module.state_dict()
    return {f"{prefix}.{name}": x * SHARPNESS if x.dim() > 1 else x for name, x in state.items()}


def model_tensors(sizes: Sizes) -> dict[str, Tensor]:
    """Tensors of a CRDNN without projections, with a decoder of GRU cells."""
    found, below, bins = {}, 1, sizes.n_mels
    for block, channels in enumerate(sizes.channels):
        for j, inputs in ((1, below), (2, channels)):
            at = f"0.CNN.block_{block}"
            found |= _named(f"{at}.conv_{j}.conv", nn.Conv2d(inputs, channels, 3))
            found |= {
                f"{at}.norm_{j}.norm.{name}": x for name, x in nn.LayerNorm((bins, channels)).state_dict().items()
            }
        below, bins = channels, bins // 2
    lstm = nn.LSTM(below * bins, sizes.rnn, sizes.rnn_layers, bidirectional=True)
    found |= _named("0.RNN.rnn", lstm)
    inputs = 2 * sizes.rnn
    for block in range(sizes.dnn_blocks):
        found |= _named(f"0.DNN.block_{block}.linear.w", nn.Linear(inputs, sizes.dnn))
        found |= _named(f"0.DNN.block_{block}.norm.norm", nn.BatchNorm1d(sizes.dnn))
        inputs = sizes.dnn

    found |= _named("1.Embedding", nn.Embedding(sizes.vocab, sizes.emb))
    found |= _named("2.proj", nn.Linear(sizes.dec + sizes.attn, sizes.dec))
    found |= _named("2.attn.mlp_enc", nn.Linear(sizes.dnn, sizes.attn))
    found |= _named("2.attn.mlp_dec", nn.Linear(sizes.dec, sizes.attn))
    found |= _named("2.attn.mlp_attn", nn.Linear(sizes.attn, 1, bias=False))
    found |= _named("2.attn.conv_loc", nn.Conv1d(1, 10, 2 * sizes.kernel + 1, bias=False))
    found |= _named("2.attn.mlp_loc", nn.Linear(10, sizes.attn))
    found |= _named("2.attn.mlp_out", nn.Linear(sizes.dnn, sizes.attn))
    found |= _named("2.rnn.rnn_cells.0", nn.GRUCell(sizes.emb + sizes.attn, sizes.dec))
    found |= _named("3.w", nn.Linear(sizes.dnn, sizes.vocab))
    return found | _named("4.w", nn.Linear(sizes.dec, sizes.vocab))


def lm_tensors(sizes: Sizes) -> dict[str, Tensor]:
    """Tensors of an RNNLM."""
    return {
        **_named("embedding.Embedding", nn.Embedding(sizes.vocab, sizes.emb)),
        **_named("rnn.rnn", nn.LSTM(sizes.emb, sizes.lm_rnn, 2)),
        **_named("dnn.linear.w", nn.Linear(sizes.lm_rnn, sizes.lm_dnn)),
        **_named("dnn.norm.norm", nn.LayerNorm(sizes.lm_dnn)),
        **_named("out.w", nn.Linear(sizes.lm_dnn, sizes.vocab)),
    }


def speechbrain_folder(folder: Path, sizes: Sizes | None = None) -> Path:
    """Write the files that SpeechBrain's pretrainer reads."""
    torch.manual_seed(4)
    sizes = sizes or Sizes()
    folder.mkdir(parents=True)
    torch.save(model_tensors(sizes), folder / "asr.ckpt")
    torch.save(lm_tensors(sizes), folder / "lm.ckpt")
    statistics = {"glob_mean": torch.full((sizes.n_mels,), -30.0), "glob_std": torch.full((sizes.n_mels,), 15.0)}
    torch.save({"count": 1, **statistics}, folder / "normalizer.ckpt")
    (folder / "tokenizer.ckpt").write_bytes(train_tokenizer(sizes.vocab, sizes.specials))
    blank, bos, eos = sizes.specials
    values = sizes.__dict__ | {"blank": blank, "bos": bos, "eos": eos}
    (folder / "hyperparams.yaml").write_text(YAML.format(**values))
    return folder
