"""The safetensors header, written: to the byte what safetensors 0.8.0 writes, or what a trimmed shard keeps.

The rules are those of `formats.header`, which reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import orjson

from overlay.formats import dtypes
from overlay.formats.header import LENGTH_BYTES, METADATA_KEY, Header


def render_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The first 8 + N bytes of a shard that holds (name, dtype, shape) in the given order.

    Byte for byte what safetensors 0.8.0 writes for tensors in its order (see `layout_order`): compact JSON, UTF-8,
    padded with spaces to a multiple of 8.

    Raises:
        ValueError: a name occurs twice or is ``__metadata__``.
    """
    table: dict[str, Any] = {METADATA_KEY: dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape in tensors:
        if name in table or name == METADATA_KEY:
            raise ValueError(f"tensor name {name!r} cannot be written twice in one shard")
        end = offset + dtypes.count_bytes(dtype, shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    return _framed(table)


def render_without(header: Header, removed: AbstractSet[str]) -> bytes:
    """The first 8 + N bytes of a shard that holds what `header` describes but for `removed`, in the same order.

    Keeps ``__metadata__``.  Costs one step a tensor.
    """
    table: dict[str, Any] = {METADATA_KEY: header.metadata} if header.metadata else {}
    offset = begin = 0
    for name, dtype, shape, end in zip(header.names, header.dtypes, header.shapes, header.ends, strict=True):
        if name not in removed:
            stop = offset + end - begin
            table[name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, stop)}
            offset = stop
        begin = end
    return _framed(table)


def _framed(table: dict[str, Any]) -> bytes:
    text = orjson.dumps(table)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def pad_header(raw: bytes, residue: int, modulus: int) -> bytes:
    """`raw`, as `render_header` gave it, with so many spaces more that its length is `residue` modulo `modulus`.

    Both must be multiples of 8, as every header's length is.
    """
    text = raw[LENGTH_BYTES:] + b" " * ((residue - len(raw)) % modulus)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def layout_order(name: str, dtype: str) -> tuple[int, str]:
    """Sort key of the safetensors library: wide dtypes first, so that all stay aligned, then by name."""
    return -dtypes.RANK[dtype], name
