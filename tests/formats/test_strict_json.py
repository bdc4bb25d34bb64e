"""Strict JSON: the fast reading against the standard library's slow one, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.formats.strict_json import (
    MAX_DEPTH,
    JsonProblem,
    JsonValue,
    canonical,
    decode,
    decode_slowly,
    encode,
    survey,
)

REFUSED = "refused"

BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])
KEYS = st.sampled_from(["a", "b", "a:", '":', "é", "", "\\", "a.b", '"a" : 1'])
NUMBERS = st.one_of(
    st.integers(-3, 3).map(str),
    st.integers(2**63 - 2, 2**70).map(str),
    st.integers(-(2**70), -(2**63) + 2).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "0e5", "1E+2", "1e-7", "NaN", "Infinity", "-Infinity", "01", "1.", "+1", "0x1"]),
)


@st.composite
def spelled(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A JSON string with some of its characters escaped for no need."""
    characters = []
    for character in draw(texts):
        needed = character in '"\\' or character < " "
        if needed or draw(st.integers(0, 4)) == 0:
            characters.append(f"\\u{ord(character):04x}")
        else:
            characters.append(character)
    return f'"{"".join(characters)}"'


SCALARS = st.one_of(
    NUMBERS,
    st.sampled_from(["null", "true", "false"]),
    spelled(st.text(st.sampled_from(':a"\\é,{}'), max_size=4)),
)


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    def blank() -> str:
        return draw(BLANKS)

    members = [
        f"{blank()}{draw(spelled(KEYS))}{blank()}:{blank()}{draw(values)}{blank()}"
        for _ in range(draw(st.integers(0, 4)))
    ]
    return "{" + (",".join(members) or blank()) + "}"


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    return "[" + ",".join(draw(BLANKS) + item + draw(BLANKS) for item in draw(st.lists(values, max_size=3))) + "]"


TEXTS = st.recursive(SCALARS, lambda values: st.one_of(objects(values), arrays(values)), max_leaves=12)


def read_by_reference(text: str) -> Any:
    """The independent reading: the standard library, every pair looked at, exact types kept by `repr`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        return repr(json.loads(text, object_pairs_hook=unique, parse_constant=refuse))
    except ValueError:
        return REFUSED


def read(data: bytes) -> Any:
    try:
        return repr(decode(data))
    except JsonProblem:
        return REFUSED


@settings(max_examples=400)
@given(st.one_of(objects(TEXTS), TEXTS))
@example('{"a" : 1, "a": 2}')
@example('{"a":1,"\\u0061":2}')
@example('{"a:":1,"a:":2}')
@example('{"a": ":", "b": {"c": 1, "c": 1}}')
@example('{"a\\u003a": "x\\u003ay", "b": 18446744073709551616}')
@example('[{"a": 1}, {"a": 1}]')
def test_decode_agrees_with_the_standard_library_on_every_text(text: str) -> None:
    expected = read_by_reference(text)

    assert expected == read(text.encode())


@settings(max_examples=200)
@given(TEXTS)
def test_the_slow_path_alone_gives_what_decode_gives(text: str) -> None:
    try:
        slow = repr(decode_slowly(text.encode()))
    except JsonProblem:
        slow = REFUSED

    assert slow == read(text.encode())


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_arbitrary_bytes_give_a_value_or_a_json_problem(data: bytes) -> None:
    text = data.decode("utf-8", "replace")

    assert read(data) in (read_by_reference(text), REFUSED)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a" : 1, "a": 2}', "a"),
        ('{"a":1,"a":1}', "a"),
        ('{"x":{"deep":1,"deep":2}}', "deep"),
        ('[[{"b":[],"b":[]}]]', "b"),
        ('{"\\u0061":1,"a":2}', "a"),
        ('{"a:b":1,"a\\u003ab":2}', "a:b"),
        ('{"":1,"":2}', ""),
    ],
)
def test_a_repeated_key_is_refused_by_name(text: str, key: str) -> None:
    with pytest.raises(JsonProblem) as caught:
        decode(text.encode())

    assert f"expected each key once, found {key!r} twice" == str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"  ", id="blanks"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte-order-mark"),
        pytest.param(b"{}\0", id="trailing-nul"),
        pytest.param(b"{} x", id="trailing-text"),
        pytest.param(b"{},{}", id="two-documents"),
        pytest.param(b'{"a":1,}', id="trailing-comma"),
        pytest.param(b"{'a':1}", id="single-quotes"),
        pytest.param(b"{a:1}", id="bare-key"),
        pytest.param(b"{} // x", id="comment"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b'{"a":-Infinity}', id="infinity"),
        pytest.param(b"1e400", id="over-double"),
        pytest.param(b"9" * 400, id="integer-over-double"),
        pytest.param(b"9" * 5000, id="integer-over-4300-digits"),
        pytest.param(b'"\xff"', id="not-utf-8"),
        pytest.param(b'"\xed\xa0\x80"', id="utf-8-surrogate"),
        pytest.param(b'"\\ud800"', id="lone-surrogate"),
        pytest.param(b'"a\nb"', id="raw-newline"),
        pytest.param('{"a":1}'.encode("utf-16-le"), id="utf-16"),
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(JsonProblem, match="^expected JSON, found "):
        decode(data)


def test_a_syntax_error_is_located() -> None:
    with pytest.raises(JsonProblem) as caught:
        decode(b'{"a": 1,\n "b": ?}')

    assert "expected JSON, found unexpected character, expected a JSON value at line 2 column 7" == str(caught.value)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("[", "]"), ('{"a":', "}"), ('[{"a:":', "}]")],
    ids=["arrays", "objects", "mixed"],
)
@pytest.mark.parametrize("inside", ["[]", "{}", "1.5"])
def test_nesting_is_accepted_to_the_limit_and_refused_past_it(opening: str, closing: str, inside: str) -> None:
    levels = (MAX_DEPTH - (inside != "1.5")) // len(closing)
    accepted = opening * levels + inside + closing * levels

    decode(accepted.encode())

    with pytest.raises(JsonProblem, match=f"^expected at most {MAX_DEPTH} nested levels, found more$"):
        decode(b"[[" + accepted.encode() + b"]]")


@pytest.mark.parametrize("depth", [129, 1000, 1024, 1025, 100_000])
def test_deep_nesting_is_refused_without_a_recursion_error(depth: int) -> None:
    texts = [b"[" * depth + b"]" * depth, b'[{"a":1.5,"a":2},' + b"[" * depth + b"]" * depth + b"]"]

    for text in texts:
        with pytest.raises(JsonProblem):
            decode(text)
        with pytest.raises(JsonProblem):
            decode_slowly(text)


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**70, -(2**63), -(2**63) - 1, 10**300])
def test_integers_are_exact(number: int) -> None:
    decoded = decode(f'{{"n": {number}}}'.encode())

    assert {"n": number} == decoded


def test_the_order_of_keys_is_kept() -> None:
    decoded = decode(b'{"b":1,"a":{"z":1.5,"y":2}}')

    assert '{"b": 1, "a": {"z": 1.5, "y": 2}}' == json.dumps(decoded)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (0, True)),
        (1.5, (0, False)),
        ({"a": {"b": [{"c": 1}, {"c": True}]}}, (4, True)),
        ([{"a": 0.0}], (1, False)),
    ],
)
def test_survey_counts_keys_and_notices_floats(value: JsonValue, expected: tuple[int, bool]) -> None:
    actual = survey(value)

    assert expected == actual


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=10,
)


@settings(max_examples=200)
@given(VALUES)
def test_what_is_encoded_decodes_to_the_same_value(value: JsonValue) -> None:
    decoded = (repr(decode(encode(value))), decode(canonical(value)))

    assert (repr(value), value) == decoded


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_canonical_text_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))

    assert canonical(value) == canonical(turned)


@pytest.mark.parametrize("size", [1, 2**64])
def test_encoded_text_has_indent_two_and_a_final_newline(size: int) -> None:
    text = encode({"é": [], "a": {"size": size}})

    assert f'{{\n  "é": [],\n  "a": {{\n    "size": {size}\n  }}\n}}\n'.encode() == text
