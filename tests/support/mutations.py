"""Random damage to a file's bytes: cut, flip, insert, delete, splice."""

from __future__ import annotations

import numpy as np

MUTATIONS = ("cut", "flip", "insert", "delete", "splice")


def mutate(data: bytes, other: bytes, kind: str, generator: np.random.Generator) -> bytes:
    """A damaged copy of `data`; a splice continues with the bytes of `other`."""
    size = len(data)
    at = int(generator.integers(1, size))
    if kind == "cut":
        return data[:at]
    if kind == "splice":
        return data[:at] + other[int(generator.integers(0, len(other))) :]
    count = int(min(2 ** generator.uniform(0, 12), size - at))
    if kind == "delete":
        return data[:at] + data[at + count :]
    noise = generator.bytes(count)
    if kind == "insert":
        return data[:at] + noise + data[at:]
    damaged = bytearray(data)
    places = generator.integers(0, size if generator.random() < 0.7 else min(size, 512), max(1, count // 64))
    for place in places:
        damaged[place] ^= 1 << int(generator.integers(8))
    return bytes(damaged)
