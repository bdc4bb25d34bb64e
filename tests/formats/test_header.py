"""The header: our reading and writing against those of the safetensors library."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from math import prod
from typing import Any, TypeAlias

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.formats.dtypes import BITS, count_bytes
from overlay.formats.header import (
    MAX_HEADER_BYTES,
    Header,
    HeaderProblem,
    TensorInfo,
    parse_header,
    read_length,
    recognise,
)
from overlay.formats.header_text import layout_order, render_header

deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize
Tensor: TypeAlias = tuple[str, str, tuple[int, ...]]

F32 = '"dtype":"F32","shape":[2],"data_offsets":[0,8]'
A = f'"a":{{{F32}}}'
NESTED = f"{'[' * 200}{']' * 200}"
B = '"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}'


def shard(text: str | bytes, data_bytes: int = 8, length: int | None = None) -> bytes:
    """A file with the header `text` as it stands, and zeros for data."""
    raw = text.encode() if isinstance(text, str) else text
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + bytes(data_bytes)


def padded(text: str, data_bytes: int = 8) -> bytes:
    """The same with a header length that is a multiple of 8."""
    return shard(text + " " * (-len(text) % 8), data_bytes)


def one(**fields: Any) -> str:
    """A header of the single tensor `a`; a field given as None is left out."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **fields}
    return json.dumps({"a": {key: value for key, value in entry.items() if value is not None}})


def parse(file: bytes) -> Header:
    return parse_header(file, len(file))


def library_accepts(file: bytes) -> bool:
    try:
        deserialize(file)
    except safetensors.SafetensorError:
        return False
    return True


def shapes_of(dtype: str) -> st.SearchStrategy[tuple[int, ...]]:
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    return shapes.filter(lambda shape: prod(shape) * BITS[dtype] % 8 == 0)


NAMES = st.one_of(
    st.from_regex(r"model\.layers\.[0-9]{1,2}\.(mlp|attn)\.weight", fullmatch=True),
    st.text(max_size=6).filter(lambda name: name != "__metadata__"),
)
TENSORS: st.SearchStrategy[list[Tensor]] = st.lists(
    st.sampled_from(list(BITS)).flatmap(lambda dtype: st.tuples(NAMES, st.just(dtype), shapes_of(dtype))),
    max_size=6,
    unique_by=lambda tensor: tensor[0],
)
METADATA = st.one_of(st.none(), st.dictionaries(st.text(max_size=4), st.text(max_size=4), min_size=1, max_size=3))


def infos_of(tensors: list[Tensor]) -> list[tuple[str, TensorInfo]]:
    infos, at = [], 0
    for name, dtype, shape in tensors:
        end = at + prod(shape) * BITS[dtype] // 8
        infos.append((name, TensorInfo(dtype, shape, at, end)))
        at = end
    return infos


# Laws


@settings(max_examples=150)
@given(TENSORS, METADATA)
def test_what_is_rendered_parses_to_the_same_tensors(tensors: list[Tensor], metadata: dict[str, str] | None) -> None:
    raw = render_header(tensors, metadata)
    expected = infos_of(tensors)
    size = expected[-1][1].end if expected else 0

    header = parse_header(raw, len(raw) + size)

    assert (expected, metadata, len(raw), sha256(raw).hexdigest(), len(raw) + size, 0) == (
        list(header.items()),
        header.metadata,
        header.data_start,
        header.digest,
        header.file_bytes,
        len(raw) % 8,
    )
    assert dict(expected) == {name: header[name] for name in header.names}
    assert (len(tensors), size, False) == (len(header), header.data_bytes, "not there" in header)


@settings(max_examples=150)
@given(TENSORS, st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_order_of_the_text_does_not_matter(tensors: list[Tensor], random: Any, padding: int) -> None:
    raw = render_header(tensors)
    expected = infos_of(tensors)
    table = json.loads(raw[8:])
    entries = list(table.items())
    random.shuffle(entries)
    file = shard(json.dumps(dict(entries)) + " " * padding, expected[-1][1].end if expected else 0)

    header = parse(file)

    assert sorted(expected) == sorted(header.items())
    assert [info.begin for _, info in expected] == [info.begin for _, info in header.items()]


@settings(max_examples=120, deadline=None)
@given(TENSORS, METADATA)
def test_the_library_opens_what_is_rendered_and_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[Tensor], metadata: dict[str, str] | None
) -> None:
    raw = render_header(tensors, metadata)
    path = tmp_path_factory.mktemp("rendered") / "model.safetensors"
    path.write_bytes(raw + bytes(sum(count_bytes(dtype, shape) for _, dtype, shape in tensors)))

    with safetensors.safe_open(path, framework="np") as opened:
        actual = sorted((name, slice_.get_dtype(), slice_.get_shape()) for name, slice_ in _slices(opened))
        found = opened.metadata()

    assert (sorted((name, dtype, list(shape)) for name, dtype, shape in tensors), metadata) == (actual, found)


def _slices(opened: Any) -> list[tuple[str, Any]]:
    return [(name, opened.get_slice(name)) for name in opened.keys()]  # noqa: SIM118  # no mapping


NUMPY_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}


@settings(max_examples=120)
@given(
    st.dictionaries(
        NAMES, st.tuples(st.sampled_from(list(NUMPY_DTYPES)), st.lists(st.integers(0, 3), max_size=3)), max_size=8
    ),
    st.sampled_from([None, {"format": "pt"}, {"a\n\x1f": 'é"\\/\x7f\u2028'}]),
)
@example({'\x00\b\f\n\r\t\x1b"\\/\x7f\x80é\u2028\U0001f600': ("U8", [1])}, {"format": "pt"})
@example({"b": ("F32", []), "a": ("F32", []), "c": ("I64", []), "ÿ": ("F32", []), "\U0001f600": ("F32", [])}, None)
def test_rendering_in_layout_order_gives_the_bytes_of_the_library(
    table: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    arrays = {name: np.zeros(shape, NUMPY_DTYPES[dtype]) for name, (dtype, shape) in table.items()}
    tensors = [(name, dtype, tuple(shape)) for name, (dtype, shape) in table.items()]
    expected = safetensors.numpy.save(arrays, metadata)

    raw = render_header(sorted(tensors, key=lambda tensor: layout_order(*tensor[:2])), metadata)

    assert expected == raw + bytes(sum(array.nbytes for array in arrays.values()))


SMALL = render_header([("a", "F32", (2,)), ("b.c", "BF16", (1, 2)), ("d", "U8", (0,))], {"k": "v"}) + bytes(12)
SPANNING = render_header([("x:y", "F4", (4,)), ("é", "BOOL", (2,)), ("", "U16", ())]) + bytes(6)
INTERESTING = st.sampled_from(list(b'{}[]":,\\u0123456789-+.eE \n\t\0\x7f\xff'))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file in which a few bytes are replaced, inserted, removed or doubled."""
    file = bytearray(draw(st.sampled_from([SMALL, SPANNING])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(file) - 1))
        what = draw(st.integers(0, 9))
        if what < 5:
            file[at] = draw(INTERESTING)
        elif what == 5:
            file[at] = draw(st.integers(0, 255))
        elif what == 6:
            file[at:at] = bytes([draw(INTERESTING)])
        elif what == 7 and len(file) > 1:
            del file[at]
        else:
            file[at:at] = file[at : at + draw(st.integers(1, 12))]
    if draw(st.booleans()):  # keep the length right, so that the text is looked at
        end = file.rfind(b"}") + 1
        length = max(end - 8, 0)
        file[:8] = length.to_bytes(8, "little")
        file[end:] = bytes(draw(st.sampled_from([12, 6, len(file) - end])))
    return bytes(file)


@settings(max_examples=1500)
@given(mutated())
@example(shard('{"a":{"dtype":"U8","shape":[0],"data_offsets":[-0,0]}}', 0))
@example(shard('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', 0))
@example(shard(f'{{"a":{{{F32},"x":{"[" * 126}{"]" * 126}}}}}'))
@example(shard(f'{{"a":{{{F32},"x":{"[" * 125}{"]" * 125}}}}}'))
@example(shard(f'{{"a":{{{F32},"x":1e400}}}}'))
def test_a_damaged_file_that_the_library_refuses_is_refused_here(file: bytes) -> None:
    try:
        parse(file)
    except HeaderProblem:
        return  # being stricter is allowed

    assert library_accepts(file)


@settings(max_examples=400)
@given(st.binary(max_size=80), st.integers(0, 100))
def test_arbitrary_bytes_are_refused_or_accepted_by_both(body: bytes, data_bytes: int) -> None:
    for file in (body, shard(body, data_bytes), shard(b"{" + body + b"}", data_bytes)):
        try:
            parse(file)
        except HeaderProblem:
            continue
        assert library_accepts(file)


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**65), 2**65),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["F32", "U8", "f32", "", "dtype", "x"]),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["dtype", "shape", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
ENTRIES = st.one_of(
    JSON_VALUES,
    st.fixed_dictionaries(
        {
            "dtype": st.one_of(st.sampled_from(["F32", "U8", "F4"]), JSON_VALUES),
            "shape": st.one_of(st.lists(st.integers(0, 3), max_size=2), JSON_VALUES),
            "data_offsets": st.one_of(st.tuples(st.integers(0, 8), st.integers(0, 16)).map(list), JSON_VALUES),
        },
        optional={"x": JSON_VALUES},
    ),
)


@settings(max_examples=500)
@given(ENTRIES, st.integers(0, 16))
def test_an_arbitrary_entry_is_accepted_by_both_or_refused_by_the_name_of_its_tensor(entry: Any, size: int) -> None:
    file = shard(json.dumps({"the.tensor": entry}), size)

    try:
        parse(file)
    except HeaderProblem as problem:
        about_text = "-0" in str(problem) or str(problem).startswith("expected JSON")
        assert problem.tensor == "the.tensor" or problem.about_size or about_text
    else:
        assert library_accepts(file)


@settings(max_examples=300)
@given(JSON_VALUES)
def test_arbitrary_metadata_is_accepted_by_both_or_refused(value: Any) -> None:
    file = shard(json.dumps({"__metadata__": value}), 0)

    try:
        parse(file)
    except HeaderProblem as problem:
        assert "__metadata__" == problem.tensor
    else:
        assert library_accepts(file)


# The table of malformed headers: what the library and we make of each.  A text in the last column is part of the
# problem when we refuse, and part of the quirk when we accept.

ACCEPTS, REFUSES = "accepts", "refuses"


def named(name: str) -> str:
    return json.dumps({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})


TABLE: list[tuple[str, bytes | Callable[[], bytes], str, str, str]] = [
    ("01 valid", padded("{" + A + "}"), ACCEPTS, ACCEPTS, ""),
    ("02 empty file", b"", REFUSES, REFUSES, "expected an 8-byte header length, found a file of 0 bytes"),
    ("03 seven bytes", bytes(7), REFUSES, REFUSES, "found a file of 7 bytes"),
    ("04 n = 0", shard("", 0), REFUSES, REFUSES, "expected the header to begin with '{', found b''"),
    ("05 n over file", shard(one(), 8, 500), REFUSES, REFUSES, "expected 508 header bytes, found a file of 7"),
    ("06 n over limit", shard(one(), 8, 100_000_001), REFUSES, REFUSES, "at most 100000000 bytes"),
    ("07 n = 2^64-1", shard(one(), 8, 2**64 - 1), REFUSES, REFUSES, "a length of 18446744073709551615"),
    ("08 n = 25,000,001", lambda: shard(one().ljust(25_000_001)), ACCEPTS, ACCEPTS, "25000001 is not a multiple of 8"),
    ("09 no tensor", padded("{}", 0), ACCEPTS, ACCEPTS, ""),
    ("10 only metadata", padded('{"__metadata__":{"a":"b"}}', 0), ACCEPTS, ACCEPTS, ""),
    ("11 not JSON", shard("hello!!!"), REFUSES, REFUSES, "begin with '{', found b'h'"),
    ("12 array", shard("[]      "), REFUSES, REFUSES, "begin with '{', found b'['"),
    ("13 string", shard('"x"     '), REFUSES, REFUSES, "begin with '{'"),
    ("14 null", shard("null    "), REFUSES, REFUSES, "begin with '{', found b'n'"),
    ("15 leading space", shard(" " + one()), ACCEPTS, REFUSES, "begin with '{', found b' '"),
    ("16 leading newline", shard("\n\t" + one()), ACCEPTS, REFUSES, "begin with '{', found b'\\n'"),
    ("17 trailing spaces", shard(one().ljust(80)), ACCEPTS, ACCEPTS, ""),
    ("18 trailing NULs", shard(one().ljust(80, "\0")), REFUSES, REFUSES, "expected JSON"),
    ("19 trailing garbage", shard(one() + "xx"), REFUSES, REFUSES, "expected JSON"),
    ("20 byte order mark", shard("\ufeff" + one()), REFUSES, REFUSES, "begin with '{'"),
    ("21 name not UTF-8", shard(one().encode().replace(b'"a"', b'"\xff"')), REFUSES, REFUSES, "expected JSON"),
    ("22 lone surrogate", shard(one().replace('"a"', '"\\ud800"')), REFUSES, REFUSES, "expected JSON"),
    ("23 tensor twice", shard(f"{{{A},{A}}}"), ACCEPTS, REFUSES, "expected each key once, found 'a' twice"),
    (
        "24 tensor twice, other offsets",
        shard(f"{{{A},{B.replace('b', 'a', 1)}}}", 16),
        REFUSES,
        REFUSES,
        "found 'a' twice",
    ),
    ("25 metadata twice", shard(f'{{"__metadata__":{{}},{A},"__metadata__":{{}}}}'), REFUSES, REFUSES, "twice"),
    ("26 key of metadata twice", shard(f'{{"__metadata__":{{"k":"1","k":"2"}},{A}}}'), ACCEPTS, REFUSES, "'k' twice"),
    ("27 dtype twice", shard(f'{{"a":{{{F32},"dtype":"F32"}}}}'), REFUSES, REFUSES, "'dtype' twice"),
    ("28 unknown field", shard(one(x=1, y=2)), ACCEPTS, ACCEPTS, "tensor 'a' has unknown fields: 'x', 'y'"),
    ("29 no dtype", shard(one(dtype=None)), REFUSES, REFUSES, "expected the field 'dtype', found none"),
    ("30 no shape", shard(one(shape=None)), REFUSES, REFUSES, "expected the field 'shape', found none"),
    ("31 no offsets", shard(one(data_offsets=None)), REFUSES, REFUSES, "expected the field 'data_offsets', found none"),
    ("32 overlap", shard(f"{{{A},{B.replace('8,16', '4,12')}}}", 12), REFUSES, REFUSES, "begin at 8, found 4 (an over"),
    ("33 alias", shard(f"{{{A},{B.replace('8,16', '0,8')}}}"), REFUSES, REFUSES, "begin at 8, found 0 (an overlap)"),
    ("34 hole", shard(f"{{{A},{B.replace('8,16', '16,24')}}}", 24), REFUSES, REFUSES, "begin at 8, found 16 (a hole)"),
    ("35 first at 8", shard(one(data_offsets=[8, 16]), 16), REFUSES, REFUSES, "begin at 0, found 8 (a hole)"),
    ("36 trailing byte", shard(one(), 9), REFUSES, REFUSES, "found 9 (bytes follow the last tensor)"),
    ("37 a byte short", shard(one(), 7), REFUSES, REFUSES, "expected 8 data bytes, found 7 (the file is cut)"),
    ("38 no data", shard(one(), 0), REFUSES, REFUSES, "expected 8 data bytes, found 0 (the file is cut)"),
    ("39 dtype F7", shard(one(dtype="F7")), REFUSES, REFUSES, "expected a dtype of safetensors 0.8, found 'F7'"),
    ("40 dtype f32", shard(one(dtype="f32")), REFUSES, REFUSES, "found 'f32'"),
    ("41 dtype null", shard(one().replace('"F32"', "null")), REFUSES, REFUSES, "found null"),
    ("42 wrong size", shard(one(shape=[3])), REFUSES, REFUSES, "12 bytes for F32 [3], found data_offsets [0, 8]"),
    ("43 end before begin", shard(one(data_offsets=[8, 0])), REFUSES, REFUSES, "found data_offsets [8, 0]"),
    ("44 negative offset", shard(one(data_offsets=[-8, 0])), REFUSES, REFUSES, "whole numbers >= 0, found [-8, 0]"),
    ("45 negative extent", shard(one(shape=[-2])), REFUSES, REFUSES, "a shape of whole numbers >= 0, found [-2]"),
    ("46 float extent", shard(one(shape=[2.0])), REFUSES, REFUSES, "found [2.0]"),
    ("47 overflow", shard(one(shape=[2**62, 2**62])), REFUSES, REFUSES, "expected a size below 2^64 bytes"),
    ("48 overflow times 0", shard(one(shape=[2**62, 2**62, 0])), REFUSES, REFUSES, "a size below 2^64 bytes"),
    ("49 offset over 2^64", shard(one(data_offsets=[0, 2**65])), REFUSES, REFUSES, "data_offsets of two whole numbers"),
    ("50 shape no list", shard(one(shape="2")), REFUSES, REFUSES, "a shape of whole numbers >= 0, found '2'"),
    (
        "51 three offsets",
        shard(one(data_offsets=[0, 8, 8])),
        REFUSES,
        REFUSES,
        "two whole numbers >= 0, found [0, 8, 8]",
    ),
    ("52 one offset", shard(one(data_offsets=[0])), REFUSES, REFUSES, "two whole numbers >= 0, found [0]"),
    ("53 metadata string", shard('{"__metadata__":"x"}', 0), REFUSES, REFUSES, "expected an object, found a string"),
    ("54 metadata list", shard('{"__metadata__":[]}', 0), REFUSES, REFUSES, "expected an object, found an array"),
    ("55 metadata null", shard(f'{{"__metadata__":null,{A}}}'), ACCEPTS, ACCEPTS, "__metadata__ is null"),
    (
        "56 metadata nested",
        shard('{"__metadata__":{"k":{}}}', 0),
        REFUSES,
        REFUSES,
        "a string for 'k', found an object",
    ),
    ("57 metadata int", shard('{"__metadata__":{"k":1}}', 0), REFUSES, REFUSES, "a string for 'k', found a number"),
    ("58 empty tensor", render_header([("a", "F32", (0,))]), ACCEPTS, ACCEPTS, ""),
    (
        "59 empty tensor in the middle",
        render_header([("a", "F32", (1,)), ("b", "F32", (2, 0)), ("c", "F32", (1,))]) + bytes(8),
        ACCEPTS,
        ACCEPTS,
        "",
    ),
    ("60 scalar", render_header([("a", "F32", ())]) + bytes(4), ACCEPTS, ACCEPTS, ""),
    ("61 misaligned length", shard(one().ljust(81)), ACCEPTS, ACCEPTS, "header length 81 is not a multiple of 8"),
    (
        "62 misaligned tensor",
        render_header([("a", "U8", (1,)), ("b", "F32", (1,))]) + bytes(5),
        ACCEPTS,
        ACCEPTS,
        "tensor 'b' begins at 1, not aligned to F32",
    ),
    ("63 F4 even", render_header([("a", "F4", (4,))]) + bytes(2), ACCEPTS, ACCEPTS, ""),
    (
        "64 F4 odd",
        shard(one(dtype="F4", shape=[3])),
        REFUSES,
        REFUSES,
        "F4 elements that fill whole bytes, found shape",
    ),
    ("65 F6_E2M3", render_header([("a", "F6_E2M3", (4,))]) + bytes(3), ACCEPTS, ACCEPTS, ""),
    ("66 F8_E8M0", render_header([("a", "F8_E8M0", (4,))]) + bytes(4), ACCEPTS, ACCEPTS, ""),
    ("67 F8_E4M3FNUZ", render_header([("a", "F8_E4M3FNUZ", (4,))]) + bytes(4), ACCEPTS, ACCEPTS, ""),
    ("68 C64", render_header([("a", "C64", (1,))]) + bytes(8), ACCEPTS, ACCEPTS, ""),
    ("69 U3", shard(one(dtype="U3")), REFUSES, REFUSES, "found 'U3'"),
    ("69 I4", shard(one(dtype="I4")), REFUSES, REFUSES, "found 'I4'"),
    ("70 empty name", shard(named("")), ACCEPTS, ACCEPTS, "tensor name '' is empty or holds control characters"),
    ("71 control characters", shard(named("../a\0\n")), ACCEPTS, ACCEPTS, "tensor name '../a\\x00\\n' is empty or"),
    ("72 name of 1 MB", lambda: render_header([("n" * 2**20, "F32", (2,))]) + bytes(8), ACCEPTS, ACCEPTS, ""),
    ("73 not in the order of offsets", padded(f"{{{B},{A}}}", 16), ACCEPTS, ACCEPTS, ""),
    ("74 NaN", shard(one().replace("[0, 8]", "[NaN,8]")), REFUSES, REFUSES, "expected JSON"),
    ("75 nested 200 deep", shard(f'{{"a":{NESTED}}}'), REFUSES, REFUSES, "expected an object, found an array"),
    # Beyond the table.
    ("nested 200 deep in an unknown field", shard(f'{{"a":{{{F32},"x":{NESTED}}}}}'), REFUSES, REFUSES, "at most"),
    (
        "nested 1000 deep as a shape",
        shard(one(shape="?").replace('"?"', "[" * 1000 + "]" * 1000)),
        REFUSES,
        REFUSES,
        "a shape of whole numbers >= 0, found [[[",
    ),
    ("nested 100,000 deep", shard(f'{{"a":{"[" * 100_000}{"]" * 100_000}}}'), REFUSES, REFUSES, "expected JSON"),
    (
        "minus zero",
        shard(one().replace("[0, 8]", "[-0, 8]")),
        REFUSES,
        REFUSES,
        "expected whole numbers >= 0, found -0",
    ),
    ("minus zero in a string", shard(one(x="-0 [-0,").ljust(96)), ACCEPTS, ACCEPTS, "unknown fields: 'x'"),
    ("small floats in an unknown field", shard(one(x=1e-05, y=-0.5)), ACCEPTS, ACCEPTS, "unknown fields: 'x', 'y'"),
    (
        "true as an extent",
        shard(one(shape=[True, 2])),
        REFUSES,
        REFUSES,
        "a shape of whole numbers >= 0, found [True, 2]",
    ),
    ("true as an offset", shard(one(data_offsets=[False, 8])), REFUSES, REFUSES, "found [False, 8]"),
    ("offsets in an object", shard(one(data_offsets={"0": 0, "8": 8})), REFUSES, REFUSES, "data_offsets of two"),
    ("shape in an object", shard(one(shape={})), REFUSES, REFUSES, "a shape of whole numbers >= 0, found {}"),
    ("dtype as a list", shard(one(dtype=["F32"])), REFUSES, REFUSES, "expected a dtype string, found an array"),
    ("entry as a sequence", shard('{"a":["F32",[2],[0,8]]}'), ACCEPTS, REFUSES, "expected an object, found an array"),
    ("entry null", shard('{"a":null}'), REFUSES, REFUSES, "expected an object, found null"),
    ("entry true", shard('{"a":true}'), REFUSES, REFUSES, "expected an object, found a truth value"),
    ("tensor twice, spelled apart", shard(f'{{{A},"\\u0061":{{{F32}}}}}'), ACCEPTS, REFUSES, "found 'a' twice"),
    ("metadata spelled with an escape", padded('{"\\u005f_metadata__":{"a":"b"}}', 0), ACCEPTS, ACCEPTS, ""),
    ("gzip magic as a length", lambda: shard(one().ljust(0x8B1F)), ACCEPTS, ACCEPTS, "not a multiple of 8"),
]


@pytest.mark.parametrize(("file", "library", "ours", "text"), [pytest.param(*case[1:], id=case[0]) for case in TABLE])
def test_a_dubious_file_gets_the_verdict_of_the_table(
    file: bytes | Callable[[], bytes], library: str, ours: str, text: str
) -> None:
    content = file if isinstance(file, bytes) else file()
    assert (library == ACCEPTS) == library_accepts(content)

    try:
        header = parse(content)
    except HeaderProblem as problem:
        verdict, said = REFUSES, str(problem)
    else:
        verdict, said = ACCEPTS, "; ".join(header.quirks)

    assert ours == verdict
    assert text in said if text else not said


def test_the_table_has_all_seventy_five_rows() -> None:
    rows = {case[0][:2] for case in TABLE if case[0][:2].isdigit()}

    assert {f"{row:02d}" for row in range(1, 76)} == rows


# Details of the answers


@pytest.mark.parametrize(
    ("text", "data_bytes", "tensor", "about_size"),
    [
        (f'{{{A},"b.weight":{{"dtype":"F7","shape":[],"data_offsets":[8,8]}}}}', 8, "b.weight", False),
        (f'{{{A},"b.weight":3}}', 8, "b.weight", False),
        (f'{{{A},"b.weight":{{"dtype":"U8","shape":[1],"data_offsets":[9,10]}}}}', 10, "b.weight", False),
        (f'{{{A},"__metadata__":{{"k":null}}}}', 8, "__metadata__", False),
        (f"{{{A}}}", 7, "", True),
        (f"{{{A}}}", 9, "", True),
        (f"{{{A},}}", 8, "", False),
    ],
)
def test_a_problem_names_its_tensor_and_tells_damage_from_size(
    text: str, data_bytes: int, tensor: str, about_size: bool
) -> None:
    with pytest.raises(HeaderProblem) as caught:
        parse(shard(text, data_bytes))

    assert (tensor, about_size) == (caught.value.tensor, caught.value.about_size)


def test_quirks_are_all_collected() -> None:
    file = shard(
        '{"__metadata__":null,"a\\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"z":{}},'
        '"b":{"dtype":"F16","shape":[],"data_offsets":[1,3]}}',
        3,
    )

    header = parse(file)

    assert (
        "__metadata__ is null",
        "tensor 'a\\n' has unknown fields: 'z'",
        f"header length {header.data_start - 8} is not a multiple of 8, so that tensors are misaligned",
        "tensor name 'a\\n' is empty or holds control characters",
        "tensor 'b' begins at 1, not aligned to F16",
    ) == header.quirks


def test_bytes_that_end_inside_the_header_are_refused() -> None:
    raw = render_header([("a", "F32", (1,))], {"k": "v"})

    for cut in range(len(raw)):
        with pytest.raises(HeaderProblem) as caught:
            parse_header(raw[:cut], len(raw) + 4)
        assert caught.value.about_size


def test_bytes_after_the_header_do_not_change_the_reading() -> None:
    raw = render_header([("a", "F32", (1,))])

    headers = [parse_header(raw + tail, len(raw) + 4) for tail in (b"", b"\0\0\0\0", b"}}")]

    assert 1 == len({(header.digest, header.data_start, tuple(header.items())) for header in headers})


def test_a_tensor_knows_its_size() -> None:
    info = TensorInfo("BF16", (3, 4), 10, 34)

    assert (24, 12) == (info.nbytes, info.elements)


def test_an_unknown_tensor_is_a_key_error() -> None:
    header = parse(render_header([]))

    with pytest.raises(KeyError):
        header["a"]


def test_the_length_may_reach_the_limit_and_not_pass_it() -> None:
    limit = MAX_HEADER_BYTES.to_bytes(8, "little")
    over = (MAX_HEADER_BYTES + 1).to_bytes(8, "little")

    assert MAX_HEADER_BYTES == read_length(limit, MAX_HEADER_BYTES + 8)
    with pytest.raises(HeaderProblem, match="expected a header of at most"):
        read_length(over, 2**40)
    with pytest.raises(HeaderProblem, match="expected 100000008 header bytes, found a file of 100000007 bytes"):
        read_length(limit, MAX_HEADER_BYTES + 7)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n <HTML lang='en'>", "an HTML page"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "gzip data"),
        (b"PK\x03\x04\x00\x00\x08\x08\x00\x00", "a ZIP archive"),
        (b"\x80\x02}q\x00(X\x05\0\0\0", "a pickle stream"),
        (b"GGUF\x03\0\0\0\x7b\0\0\0\0\0\0\0", "a GGUF file"),
        (b"GG", ""),
        (b"", ""),
        (render_header([("a", "F32", ())]), ""),
    ],
)
def test_a_well_known_foreign_file_is_recognised(prefix: bytes, expected: str) -> None:
    actual = recognise(prefix)

    assert actual.startswith(expected) and bool(actual) == bool(expected)
    if expected:
        with pytest.raises(HeaderProblem, match=f"^expected a safetensors shard, found {expected}"):
            parse(prefix)


@settings(max_examples=200)
@given(st.integers(2, MAX_HEADER_BYTES))
@example(0x04034B50)
@example(0x00088B1F)
@example(0x00000280)
def test_no_length_of_a_real_header_is_taken_for_a_foreign_file(length: int) -> None:
    prefix = length.to_bytes(8, "little") + b'{"a":{"dtype":'

    assert (length, "") == (read_length(prefix, length + 8), recognise(prefix))


@pytest.mark.parametrize("names", [["a", "a"], ["__metadata__"], ["b", "a", "b"]])
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_name_is_not_written_twice(names: list[str], metadata: dict[str, str] | None) -> None:
    with pytest.raises(ValueError, match=f"tensor name '{names[-1]}' cannot be written twice in one shard"):
        render_header([(name, "U8", (1,)) for name in names], metadata)


def test_equal_shapes_of_many_tensors_are_one_object() -> None:
    tensors: list[Tensor] = [(f"model.layers.{n}.weight", "BF16", (2, 3)) for n in range(50_000)]
    raw = render_header(tensors)

    header = parse_header(raw, len(raw) + 600_000)

    assert (infos_of(tensors)[-1], 600_000) == ((header.names[-1], header.at(49_999)), header.data_bytes)
    assert 1 == len({id(shape) for shape in header.shapes})
