"""Widening of a language model: the weights of a narrow LSTM initialise a wider one with the same predictions.

After Chen et al. 2016, "Net2Net". New units read the output of old ones, but at first nothing reads theirs.
"""

from __future__ import annotations

from torch import Tensor

from asr.errors import ConfigError
from asr.model.lm import LanguageModel

__all__ = ["widened"]

_GATES = 4


def widened(narrow: LanguageModel, wide: LanguageModel) -> dict[str, Tensor]:
    """State dict for `wide` that gives it the predictions of `narrow`; new units keep their own weights.

    Raises:
        ConfigError: the two differ in more than `hidden_size`, or `narrow` is the wider one.
    """
    old, new = narrow.config, wide.config
    kept, wanted = ((c.vocab_size, c.embedding_size, c.layers, c.dense_layers) for c in (old, new))
    if kept != wanted or old.dense_layers or old.hidden_size > new.hidden_size:
        raise ConfigError(
            f"init: a language model with {old.layers} layers of {old.hidden_size} and embeddings of "
            f"{old.embedding_size} cannot become one with {new.layers} of {new.hidden_size} and {new.embedding_size}; "
            "only hidden_size may grow"
        )
    size, own = old.hidden_size, narrow.state_dict()
    weights = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    for name, tensor in weights.items():
        if not name.startswith("lstm."):
            columns = own[name].shape[-1]  # `projection.weight` grows by columns
            tensor[..., :columns] = own[name]
            tensor[..., columns:] = 0
            continue
        gates, known = (t.unflatten(0, (_GATES, -1)) for t in (tensor, own[name]))
        if name.startswith("lstm.bias"):
            gates[:, :size] = known
            continue
        columns = known.shape[2]
        gates[:, :size, :columns] = known
        gates[:, :size, columns:] = 0
    return weights
