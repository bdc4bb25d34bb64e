"""The safetensors header: read strictly, with its offsets, and written to the byte.

Source: the format section of the safetensors README and `tensor.rs` of release 0.8.0.  A file is
``u64 little-endian N``, N bytes of JSON, then the data; ``data_offsets`` count from the first data byte.

The rules, all of them refused when broken:

1. N is at most 100,000,000 and the header lies inside the file.  The header begins with ``{``.
2. No key occurs twice, at any level.  ``__metadata__`` maps strings to strings.
3. Each tensor has ``dtype``, ``shape`` and ``data_offsets`` of the right types, and the range is exactly as long as
   dtype and shape say, without overflow and without a broken byte.
4. The ranges tile the data: no hole, no overlap, nothing before the first and nothing after the last.

What the library lets pass although it is dubious is kept as `Header.quirks`.  Tensors are kept as columns in the order
of their bytes, because a quarter of a million small objects would cost three times the memory.
"""

from __future__ import annotations

import re
import reprlib
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import chain
from operator import itemgetter, mod, sub
from typing import Any, Final, NamedTuple

from overlay.formats import dtypes, strict_json

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100_000_000
METADATA_KEY: Final = "__metadata__"
_FIELDS = ("dtype", "shape", "data_offsets")
_FIELDS_OF = itemgetter(*_FIELDS)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_MINUS_ZERO = re.compile(rb"(?<![eE])-0(?![.eE])")

_ALIGNMENT: Final = {dtype: max(1, bits // 8) for dtype, bits in dtypes.BITS.items()}


class HeaderProblem(ValueError):
    """The bytes are not a strictly valid header.

    Attributes:
        tensor: the tensor concerned, or "".
        about_size: true when header and file size contradict each other (a cut or padded file).
    """

    def __init__(self, problem: str, *, tensor: str = "", about_size: bool = False) -> None:
        self.tensor = tensor
        self.about_size = about_size
        super().__init__(problem)


class TensorInfo(NamedTuple):
    """One entry of a header; offsets are bytes from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin

    @property
    def elements(self) -> int:
        """Number of elements; packed dtypes count their containers."""
        return dtypes.count_elements(self.shape)


@dataclass(frozen=True, eq=False)
class Header:
    """A valid header; tensors in the order of their bytes."""

    names: list[str]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    ends: array[int]
    """Last byte + 1 of each tensor; a tensor begins where the one before it ends."""
    metadata: dict[str, str] | None
    data_start: int
    """Offset in the file of the first data byte: 8 + N."""
    digest: str
    """sha256 of the first `data_start` bytes of the file, in hex."""
    quirks: tuple[str, ...] = field(default=())
    """What the format frowns on and every loader accepts."""

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.positions

    def __getitem__(self, name: str) -> TensorInfo:
        """The tensor called `name`.

        Raises:
            KeyError: there is none.
        """
        return self.at(self.positions[name])

    def at(self, position: int) -> TensorInfo:
        """The tensor at `position` in the order of bytes."""
        begin = self.ends[position - 1] if position else 0
        return TensorInfo(self.dtypes[position], self.shapes[position], begin, self.ends[position])

    def items(self) -> Iterator[tuple[str, TensorInfo]]:
        """Names and tensors in the order of their bytes."""
        for position, name in enumerate(self.names):
            yield name, self.at(position)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Name to position; built when first asked for."""
        return {name: position for position, name in enumerate(self.names)}

    @property
    def data_bytes(self) -> int:
        """Bytes of tensor data."""
        return self.ends[-1] if self.ends else 0

    @property
    def file_bytes(self) -> int:
        """The size that the file has, when it is whole."""
        return self.data_start + self.data_bytes


def read_length(prefix: bytes, file_bytes: int) -> int:
    """The length N of the JSON text, from the first bytes of a file of `file_bytes`.

    Raises:
        HeaderProblem: N is missing, over the format's limit, or runs past the end of the file.
    """
    foreign = recognise(prefix)
    if foreign:
        raise HeaderProblem(f"expected a safetensors shard, found {foreign}", about_size=True)
    if len(prefix) < LENGTH_BYTES:
        raise HeaderProblem(f"expected an 8-byte header length, found a file of {file_bytes} bytes", about_size=True)
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderProblem(f"expected a header of at most {MAX_HEADER_BYTES} bytes, found a length of {length}")
    if LENGTH_BYTES + length > file_bytes:
        raise HeaderProblem(
            f"expected {LENGTH_BYTES + length} header bytes, found a file of {file_bytes} bytes", about_size=True
        )
    return length


def recognise(prefix: bytes) -> str:
    """Name what a file that starts with `prefix` is, when it is a well-known something else; else ""."""
    if prefix.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer (the real file was never downloaded)"
    if prefix.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "an HTML page (a saved error page?)"
    if prefix[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":  # these can be the length of a real header
        if prefix.startswith(b"\x1f\x8b"):
            return "gzip data"
        if prefix.startswith(b"PK\x03\x04"):
            return "a ZIP archive (a PyTorch pickle?)"
        # After the protocol comes an opcode, none of which is 0; in the length of a small header a 0 stands there.
        if prefix[:1] == b"\x80" and prefix[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and prefix[2:3] > b"\0":
            return "a pickle stream"
    if prefix.startswith(b"GGUF"):
        return "a GGUF file"
    return ""


def parse_header(raw: bytes, file_bytes: int) -> Header:
    """Parse the first 8 + N bytes of a shard of `file_bytes`.

    Raises:
        HeaderProblem: any rule of this module is broken.
    """
    length = read_length(raw[:64], file_bytes)
    text = raw[LENGTH_BYTES : LENGTH_BYTES + length]
    if len(text) < length:
        raise HeaderProblem(f"expected {length} bytes of header text, found {len(text)}", about_size=True)
    if not text.startswith(b"{"):
        raise HeaderProblem(f"expected the header to begin with '{{', found {text[:1]!r}")
    table = _decode(text)
    metadata, quirks = _parse_metadata(table.pop(METADATA_KEY)) if METADATA_KEY in table else (None, [])
    columns = _Columns(quirks)
    if not columns.fill(table):
        for name, entry in table.items():
            columns.add(name, entry)
    data_start = LENGTH_BYTES + length
    if data_start % 8:
        columns.quirks.append(f"header length {length} is not a multiple of 8, so that tensors are misaligned")
    # JSON escapes control characters, all but DEL: a text without either has none in its names.
    columns.arrange(file_bytes - data_start, plain=b"\\" not in text and b"\x7f" not in text)
    return Header(
        names=columns.names,
        dtypes=columns.dtypes,
        shapes=columns.shapes,
        ends=array("Q", columns.ends),
        metadata=metadata,
        data_start=data_start,
        digest=sha256(raw[:data_start]).hexdigest(),
        quirks=tuple(columns.quirks),
    )


def _decode(text: bytes) -> dict[str, Any]:
    try:
        table = strict_json.decode_unchecked(text)
        if not isinstance(table, dict):
            raise HeaderProblem(f"expected a JSON object, found {_kind(table)}")
        # Rule 1 of strict_json, with the keys of the two levels that a valid header has.
        entries: Collection[Any] = table.values()
        if {*map(type, entries)} != {dict}:  # broken, or a null __metadata__
            entries = [entry for entry in entries if isinstance(entry, dict)]
        keys = len(table) + sum(map(len, entries))
        if text.count(b":") != keys:
            strict_json.decode_slowly(text)
    except strict_json.JsonProblem as error:
        raise HeaderProblem(str(error)) from None
    # JSON readers disagree: 0 here, the floating point number -0.0, which is no offset, in the library.
    if b"-" in text and b"-0" in text and _MINUS_ZERO.search(_STRING.sub(b'""', text)):
        raise HeaderProblem("expected whole numbers >= 0, found -0")
    return table


def _parse_metadata(value: Any) -> tuple[dict[str, str] | None, list[str]]:
    if value is None:
        return None, ["__metadata__ is null"]
    if not isinstance(value, dict):
        raise HeaderProblem(f"expected an object, found {_kind(value)}", tensor=METADATA_KEY)
    for key, text in value.items():
        if not isinstance(text, str):
            raise HeaderProblem(f"expected a string for {key!r}, found {_kind(text)}", tensor=METADATA_KEY)
    return value, []


class _Sizes(dict[tuple[Any, tuple[int, ...]], tuple[str, tuple[int, ...], int]]):
    """(dtype, shape) to the same two, shared, and the size in bytes.

    About thirty different pairs serve 233,087 tensors, so that each is judged once, when it is first looked up.
    """

    def __missing__(self, key: tuple[Any, tuple[int, ...]]) -> tuple[str, tuple[int, ...], int]:
        dtype, shape = key
        if not isinstance(dtype, str) or dtype not in dtypes.BITS:
            raise HeaderProblem(f"expected a dtype of safetensors 0.8, found {reprlib.repr(dtype)}")
        if shape and min(shape) < 0:
            raise HeaderProblem(f"expected a shape of whole numbers >= 0, found {list(shape)}")
        try:
            size = dtypes.count_bytes(dtype, shape)
        except OverflowError:
            raise HeaderProblem(f"expected a size below 2^64 bytes, found shape {list(shape)}") from None
        except ValueError:
            raise HeaderProblem(f"expected {dtype} elements that fill whole bytes, found shape {list(shape)}") from None
        self[key] = dtype, shape, size
        return self[key]


class _Columns:
    """The columns of a header while they are being filled."""

    def __init__(self, quirks: list[str]) -> None:
        self.names: list[str] = []
        self.dtypes: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.begins: list[int] = []
        self.ends: list[int] = []
        self.quirks = quirks
        self._sizes = _Sizes()

    def fill(self, table: dict[str, Any]) -> bool:
        """Take all of a regular table, a column at a time, which is three times as fast as an entry at a time.

        False, with nothing taken, as soon as anything is unusual; `add` then finds out what, and which tensor it is.
        """
        try:
            if {*map(len, table.values())} - {len(_FIELDS)}:
                return False
            kinds, shapes, offsets = zip(*map(_FIELDS_OF, table.values()), strict=True)
            begins, ends = zip(*offsets, strict=True)
            if {*map(type, chain(begins, ends, chain.from_iterable(shapes)))} - {int} or min(begins) < 0:
                return False
            if {*map(type, chain(shapes, offsets))} - {list}:
                return False
            keys = list(zip(kinds, map(tuple, shapes), strict=True))
            kinds, shapes, sizes = zip(*map(self._sizes.__getitem__, keys), strict=True)
        except (KeyError, TypeError, ValueError):
            return False
        if tuple(map(sub, ends, begins)) != sizes:
            return False
        self.names, self.begins, self.ends = list(table), list(begins), list(ends)
        self.dtypes, self.shapes = list(kinds), list(shapes)
        return True

    def add(self, name: str, entry: Any) -> None:
        """Take one entry, or say which rule it breaks."""
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            begin, end = entry["data_offsets"]
            for extent in shape:
                if type(extent) is not int or extent < 0:
                    raise TypeError
            if (
                type(begin) is not int
                or type(end) is not int
                or begin < 0
                or type(shape) is not list
                or type(dtype) is not str
            ):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise _explain(name, entry) from None
        try:
            known = self._sizes[dtype, tuple(shape)]
        except HeaderProblem as problem:
            raise HeaderProblem(str(problem), tensor=name) from None
        if end - begin != known[2]:
            raise HeaderProblem(
                f"expected {known[2]} bytes for {dtype} {list(shape)}, found data_offsets [{begin}, {end}]", tensor=name
            )
        if len(entry) != len(_FIELDS):
            try:
                strict_json.survey([entry])
            except strict_json.JsonProblem as error:
                raise HeaderProblem(str(error), tensor=name) from None
            extra = ", ".join(repr(key) for key in entry if key not in _FIELDS)
            self.quirks.append(f"tensor {name!r} has unknown fields: {extra}")
        self.names.append(name)
        self.dtypes.append(known[0])
        self.shapes.append(known[1])
        self.begins.append(begin)
        self.ends.append(end)

    def arrange(self, data_bytes: int, *, plain: bool) -> None:
        """Put the tensors in the order of their bytes, and hold rule 4 against `data_bytes` of data."""
        if not self._contiguous():
            order = sorted(range(len(self.names)), key=lambda i: (self.begins[i], self.ends[i]))
            self.names = [self.names[i] for i in order]
            self.dtypes = [self.dtypes[i] for i in order]
            self.shapes = [self.shapes[i] for i in order]
            self.begins = [self.begins[i] for i in order]
            self.ends = [self.ends[i] for i in order]
            self._require_tiling()
        self._note_oddities(plain)
        expected = self.ends[-1] if self.ends else 0
        if expected != data_bytes:
            what = "the file is cut" if data_bytes < expected else "bytes follow the last tensor"
            raise HeaderProblem(f"expected {expected} data bytes, found {data_bytes} ({what})", about_size=True)

    def _contiguous(self) -> bool:
        return not self.names or (self.begins[0] == 0 and self.begins[1:] == self.ends[:-1])

    def _require_tiling(self) -> None:
        at = 0
        for name, begin, end in zip(self.names, self.begins, self.ends, strict=True):
            if begin != at:
                what = "a hole" if begin > at else "an overlap"
                raise HeaderProblem(f"expected its data to begin at {at}, found {begin} ({what})", tensor=name)
            at = end

    def _note_oddities(self, plain: bool) -> None:
        """Names and alignments that loaders accept; each column is looked at as a whole before any single tensor."""
        if "" in self.names or (not plain and _CONTROL.search(" ".join(self.names)) is not None):
            for name in self.names:
                if not name or _CONTROL.search(name):
                    self.quirks.append(f"tensor name {name!r} is empty or holds control characters")
        if any(map(mod, self.begins, map(_ALIGNMENT.__getitem__, self.dtypes))):
            for name, dtype, begin in zip(self.names, self.dtypes, self.begins, strict=True):
                if begin % _ALIGNMENT[dtype]:
                    self.quirks.append(f"tensor {name!r} begins at {begin}, not aligned to {dtype}")


def _explain(name: str, entry: Any) -> HeaderProblem:
    """Say which rule an entry breaks that `_Columns.add` could not take apart."""
    if not isinstance(entry, dict):
        return HeaderProblem(f"expected an object, found {_kind(entry)}", tensor=name)
    for key in _FIELDS:
        if key not in entry:
            return HeaderProblem(f"expected the field {key!r}, found none", tensor=name)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str):
        return HeaderProblem(f"expected a dtype string, found {_kind(entry['dtype'])}", tensor=name)
    if not isinstance(shape, list) or any(type(extent) is not int or extent < 0 for extent in shape):
        return HeaderProblem(f"expected a shape of whole numbers >= 0, found {reprlib.repr(shape)}", tensor=name)
    return HeaderProblem(f"expected data_offsets of two whole numbers >= 0, found {reprlib.repr(offsets)}", tensor=name)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
