"""Steps of fixed shapes as CUDA graphs: one launch instead of hundreds.

A graph has input and output tensors of its own. It is captured for one layout of the arguments and one number of rows,
a power of two: a batch is copied to the first rows, and the results of the others are ignored.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr.model.states import Layout, build, flatten

__all__ = ["Capture", "Graphs", "capture"]

_LOG = logging.getLogger(__name__)
_MOST_ROWS = 256  # above this, kernels run longer than it takes to launch them, and the tensors become large
_MOST_GRAPHS = 64
_WARM_UP = 3  # runs before the capture, for libraries to choose kernels and allocate memory

Capture = Callable[[Callable[[], Any]], tuple[Callable[[], object], Any]]
"""Takes a function without arguments; returns a function that replays it, and its result, rewritten by each replay."""


class _Graph(NamedTuple):
    given: list[Tensor]
    replay: Callable[[], object]
    result: list[Tensor]
    layout: Layout  # of the result

    def __call__(self, tensors: list[Tensor]) -> Any:
        rows = len(tensors[0])
        for own, tensor in zip(self.given, tensors, strict=True):
            own[:rows].copy_(tensor)
        self.replay()
        return build(self.layout, [own[:rows].clone() for own in self.result])


class Graphs:
    """A function of states (see `asr.model.states`) to a state, captured when a shape is seen for the second time.

    Where a graph cannot be captured, the function itself is called from then on.

    Args:
        function: each row of its result depends on that row of the arguments alone, and it never waits for the GPU.
        capture: captures a graph.
    """

    def __init__(self, function: Callable[..., Any], capture: Capture | None = None) -> None:
        self._function, self._capture = function, capture or _capturing()
        self._graphs: dict[tuple[Layout, int], _Graph] = {}
        self._seen: Counter[tuple[Layout, int]] = Counter()
        self._usable = True

    def __call__(self, *arguments: Any) -> Any:
        tensors, layout = flatten(arguments)
        rows = len(tensors[0])
        key = (layout, 1 << (rows - 1).bit_length())
        with torch.cuda.device_of(tensors[0]):
            if (graph := self._graphs.get(key)) is None and self._worth(key):
                graph = self._captured(key, tensors)
            return self._function(*arguments) if graph is None else graph(tensors)

    def _worth(self, key: tuple[Layout, int]) -> bool:
        if not self._usable or key[1] > _MOST_ROWS or len(self._graphs) == _MOST_GRAPHS:
            return False
        if len(self._seen) > 8 * _MOST_GRAPHS:  # mostly shapes seen once
            self._seen.clear()
        self._seen[key] += 1
        return self._seen[key] > 1

    def _captured(self, key: tuple[Layout, int], tensors: list[Tensor]) -> _Graph | None:
        layout, rows = key
        given = [tensor.new_zeros(rows, *tensor.shape[1:]) for tensor in tensors]
        arguments = build(layout, given)
        try:
            replay, result = self._capture(lambda: self._function(*arguments))
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            _LOG.warning("no CUDA graph could be captured (%s): going on without", reason)
            self._usable = False
            return None
        found, form = flatten(result)
        self._graphs[key] = _Graph(given, replay, found, form)
        return self._graphs[key]


def _capturing() -> Capture:
    """`capture` into one memory pool: graphs never run at the same time, so they can share all but their results."""
    pool: list[Any] = []

    def captured(function: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        if not pool:
            pool.append(torch.cuda.graph_pool_handle())
        return capture(function, pool[0])

    return captured


def capture(function: Callable[[], Any], pool: Any = None) -> tuple[Callable[[], object], Any]:
    """Capture a function on the current CUDA device; see `Capture`.

    Raises:
        RuntimeError: the function cannot be captured, or there is too little memory.
    """
    stream, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(stream)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            function()
    stream.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may use the GPU during the capture.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = function()
    return graph.replay, result
