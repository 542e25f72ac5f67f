"""Tracing of modules to ONNX files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from asr.errors import DependencyError
from asr.files import write_atomically
from asr.model.fast import fast_paths

__all__ = ["Graph", "Port", "require_onnx", "write_graph"]

_OPSET = 17  # from 2022, supported by every current runtime


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: its name and its sizes; a size given by name is dynamic."""

    name: str
    shape: tuple[str | int, ...] = ()
    kind: str = "float32"

    @property
    def axes(self) -> dict[int, str]:
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}

    @property
    def next(self) -> Port:
        """The output that follows this input of a state; it may have other sizes."""
        shape = tuple(f"next_{size}" if isinstance(size, str) and size not in "BN" else size for size in self.shape)
        return Port(f"next_{self.name}", shape, self.kind)

    def example(self, sizes: Mapping[str, int]) -> Tensor:
        """A tensor of this shape."""
        shape = [sizes[size] if isinstance(size, str) else size for size in self.shape]
        if self.kind == "int64":
            return torch.full(shape, sizes.get(self.name, 1))
        return torch.ones(shape, dtype=torch.bool) if self.kind == "bool" else torch.randn(shape)


@dataclass(frozen=True)
class Graph:
    """A module with its inputs and outputs."""

    name: str
    module: nn.Module
    inputs: Sequence[Port]
    outputs: Sequence[Port]

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"

    def described(self) -> dict[str, Any]:
        """The graph's entry in the metadata, as plain data."""
        ports = {"inputs": self.inputs, "outputs": self.outputs}
        rows = {
            way: [{"name": each.name, "type": each.kind, "shape": list(each.shape)} for each in given]
            for way, given in ports.items()
        }
        return {"file": self.file, **rows}


def require_onnx() -> None:
    """Check that onnx can be imported.

    Raises:
        DependencyError: it cannot.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise DependencyError("the package onnx is missing: pip install 'spellstream[onnx]'") from error


@torch.no_grad()
def write_graph(graph: Graph, folder: Path, sizes: Mapping[str, int]) -> None:
    """Trace a module, check the graph, and write it to `folder`.

    Torch's tracing exporter is used: the one based on `torch.export` unrolls an LSTM over its frames, and had not
    finished after minutes.

    Args:
        graph: the module and its ports.
        folder: must exist.
        sizes: sizes and integer inputs of the traced example, by name.
    """
    import onnx

    # Plain PyTorch is traced, since a fast path may depend on the example's sizes.
    with warnings.catch_warnings(), fast_paths(False), TemporaryDirectory() as temporary:
        # Torch warns that this exporter is old, and of sizes that become constants, which tests would notice.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module.eval(),
            tuple(port.example(sizes) for port in graph.inputs),
            Path(temporary) / graph.file,
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            dynamic_axes={port.name: port.axes for port in (*graph.inputs, *graph.outputs) if port.axes},
            opset_version=_OPSET,
            dynamo=False,
        )
        model = onnx.load(str(Path(temporary) / graph.file))

    # A trace drops inputs that the module does not use, such as the alignment for some attentions. Callers pass all.
    used = {each.name: each for each in model.graph.input}
    inputs = [used.get(port.name) or _declared(port) for port in graph.inputs]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx.checker.check_model(model)
    write_atomically(folder / graph.file, model.SerializeToString())


def _declared(port: Port) -> Any:
    """ONNX's declaration of an input."""
    from onnx import TensorProto, helper

    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    return helper.make_tensor_value_info(port.name, kinds[port.kind], port.shape)
