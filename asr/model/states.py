"""States of streams and hypotheses as rows: taken out of one batch and joined to another.

A state is a tensor `(B, ...)` with a row for each stream, a value shared by all streams of the batch, or a tuple, list
or frozen dataclass (`State`) of such parts. Its layout is everything but the numbers: only rows of the same layout form
a batch. A row is one vector with all numbers of a stream, so that batching takes the same few operations for every kind
of state.

`Vectors` keeps each row in a tensor of its own. `Slots` keeps all rows in one preallocated tensor on the device, so
that no stream needs an operation of its own; a CPU gains nothing from that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

__all__ = [
    "Layout",
    "Row",
    "Rows",
    "Slots",
    "State",
    "Vectors",
    "build",
    "flatten",
    "join",
    "layout_of",
    "select",
]

S = TypeVar("S")


class State:
    """Base of frozen dataclasses whose fields are parts of a state."""


class _Tensor(NamedTuple):
    """The place of a tensor in a layout."""

    shape: tuple[int, ...]  # of a row
    dtype: torch.dtype


class _Parts(NamedTuple):
    """The place of a tuple, a list or a `State`."""

    kind: type
    parts: tuple[Hashable, ...]


Layout = Hashable


def flatten(state: Any) -> tuple[list[Tensor], Layout]:
    """The tensors of a state in order, and its layout."""
    tensors: list[Tensor] = []

    def walk(part: Any) -> Hashable:
        if isinstance(part, Tensor):
            tensors.append(part)
            return _Tensor(tuple(part.shape[1:]), part.dtype)
        if isinstance(part, State):
            return _Parts(type(part), tuple(walk(each) for each in vars(part).values()))
        if isinstance(part, tuple | list):
            return _Parts(type(part), tuple(map(walk, part)))
        return cast(Hashable, part)

    layout = walk(state)
    return tensors, layout


def build(layout: Layout, tensors: Iterable[Tensor]) -> Any:
    """The state of a layout with these tensors."""
    rest = iter(tensors)

    def walk(part: Hashable) -> Any:
        if isinstance(part, _Tensor):
            return next(rest)
        if isinstance(part, _Parts):
            parts = [walk(each) for each in part.parts]
            return part.kind(parts) if part.kind in (tuple, list) else part.kind(*parts)
        return part

    return walk(layout)


def layout_of(state: Any) -> Layout:
    """The layout of a state."""
    return flatten(state)[1]


def join(states: Sequence[S]) -> S:
    """The rows of several states of the same layout as one state."""
    if len(states) == 1:
        return states[0]
    tensors = zip(*(flatten(state)[0] for state in states), strict=True)
    return cast(S, build(layout_of(states[0]), map(torch.cat, tensors)))


def select(state: S, rows: slice) -> S:
    """Some rows of a state, as views."""
    tensors, layout = flatten(state)
    return cast(S, build(layout, (tensor[rows] for tensor in tensors)))


def _places(layout: Layout) -> Iterator[_Tensor]:
    if isinstance(layout, _Tensor):
        yield layout
    elif isinstance(layout, _Parts):
        for part in layout.parts:
            yield from _places(part)


def _pack(state: Any) -> tuple[dict[torch.dtype, Tensor], Layout]:
    """All numbers of each row, `(B, n)` for each dtype, and the layout."""
    tensors, layout = flatten(state)
    flat: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        flat.setdefault(tensor.dtype, []).append(tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None])
    return {dtype: torch.cat(parts, dim=1) for dtype, parts in flat.items()}, layout


def _unpack(packed: dict[torch.dtype, Tensor], layout: Layout) -> Any:
    places = list(_places(layout))
    sizes: dict[torch.dtype, list[int]] = {dtype: [] for dtype in packed}
    for place in places:
        sizes[place.dtype].append(torch.Size(place.shape).numel())
    parts = {dtype: iter(packed[dtype].split(of, dim=1)) for dtype, of in sizes.items()}
    batch = len(next(iter(packed.values())))
    # Contiguous, as cuDNN wants the states of an LSTM.
    return build(layout, (next(parts[p.dtype]).reshape(batch, *p.shape).contiguous() for p in places))


def _widths(layout: Layout) -> dict[torch.dtype, int]:
    """Numbers of a row, by dtype."""
    widths: dict[torch.dtype, int] = {}
    for place in _places(layout):
        widths[place.dtype] = widths.get(place.dtype, 0) + torch.Size(place.shape).numel()
    return widths


class Row(Protocol):
    """The state of one stream. It never changes."""

    @property
    def layout(self) -> Layout:
        """Only rows of the same layout can be one batch."""


class Rows(Protocol):
    """Where the states of streams are kept."""

    def keep(self, state: Any) -> Sequence[Row]:
        """Copy the state of each stream of a batch to a row."""

    def batch(self, rows: Sequence[Any]) -> Any:
        """The state of a batch of streams, from rows of the same layout, in their order."""


@dataclasses.dataclass(frozen=True)
class _Vector:
    layout: Layout
    numbers: tuple[Tensor, ...]  # a vector for each dtype


class Vectors:
    """Keeps each row in a tensor of its own."""

    def keep(self, state: Any) -> list[_Vector]:
        packed, layout = _pack(state)
        rows = zip(*(numbers.unbind() for numbers in packed.values()), strict=True)
        # Cloned: a view would keep the whole batch in memory.
        return [_Vector(layout, tuple(numbers.clone() for numbers in row)) for row in rows]

    def batch(self, rows: Sequence[_Vector]) -> Any:
        layout = rows[0].layout
        packed = zip(_widths(layout), zip(*(row.numbers for row in rows), strict=True), strict=True)
        return _unpack({dtype: torch.stack(numbers) for dtype, numbers in packed}, layout)


class _Slot:
    """A row of the table, freed when nothing refers to this object."""

    __slots__ = ("_free", "layout", "number")

    def __init__(self, number: int, layout: Layout, free: list[int]) -> None:
        self.number, self.layout, self._free = number, layout, free

    def __del__(self) -> None:
        self._free.append(self.number)


class Slots:
    """Keeps rows in one tensor for each dtype, which grows when it is full.

    A row is written once, and freed when nothing refers to it: the state of a stream before a step stays valid until
    the stream drops it. So there are up to twice as many rows as streams.

    Args:
        device: of the table.
        rows: to begin with.
    """

    def __init__(self, device: torch.device, rows: int = 256) -> None:
        self.device = device
        self._tables: dict[torch.dtype, Tensor] = {}
        self._free = list(range(rows))
        self._count = rows

    def keep(self, state: Any) -> list[_Slot]:
        packed, layout = _pack(state)
        count = len(next(iter(packed.values())))
        while len(self._free) < count:
            self._free += range(self._count, 2 * self._count)
            self._count *= 2
        slots = [_Slot(self._free.pop(), layout, self._free) for _ in range(count)]
        places = self._places(slots)
        for dtype, numbers in packed.items():
            self._table(dtype, numbers.shape[1])[:, : numbers.shape[1]].index_copy_(0, places, numbers)
        return slots

    def batch(self, rows: Sequence[_Slot]) -> Any:
        layout, places = rows[0].layout, self._places(rows)
        widths = _widths(layout).items()
        found = {dtype: self._tables[dtype][:, :width].index_select(0, places) for dtype, width in widths}
        return _unpack(found, layout)

    def _places(self, rows: Sequence[_Slot]) -> Tensor:
        numbers = torch.tensor([row.number for row in rows])
        return numbers if self.device.type == "cpu" else numbers.pin_memory().to(self.device, non_blocking=True)

    def _table(self, dtype: torch.dtype, width: int) -> Tensor:
        """The table of a dtype, with a place for all rows and at least `width` numbers in each."""
        before = self._tables.get(dtype)
        if before is None or before.shape[0] < self._count or before.shape[1] < width:
            rows, columns = (0, 0) if before is None else before.shape
            table = torch.zeros(self._count, max(width, columns), dtype=dtype, device=self.device)
            if before is not None:
                table[:rows, :columns] = before
            self._tables[dtype] = table
        return self._tables[dtype]
