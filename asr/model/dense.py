"""Dense layers: linear, normalisation, activation and dropout."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from asr.config import Activation
from asr.model.normalisation import Normalisation

__all__ = ["Dense", "activation"]

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}


def activation(name: Activation) -> nn.Module:
    """The activation that a config names."""
    return _ACTIVATIONS[name]()


class Dense(nn.Module):
    """`(B, T, input_size)` to `(B, T, size)`."""

    def __init__(
        self,
        input_size: int,
        size: int,
        normalisation: Literal["none", "layer", "batch"],
        kind: Activation,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, size)
        self.normalisation = Normalisation(normalisation, size)
        self.activation = activation(kind)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Frames beyond `lengths` `(B,)` are invalid, none if it is None."""
        y: Tensor = self.dropout(self.activation(self.normalisation(self.linear(x), lengths)))
        return y
