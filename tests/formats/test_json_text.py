"""Editing JSON text: an edit gives what dumping the edited value in the same style gives, and touches nothing else."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.formats.json_spans import NoSuchPlace
from overlay.formats.json_text import (
    JsonText,
    add,
    excerpt,
    insert_item,
    insert_member,
    read,
    remove,
    replace,
    value_at,
)
from overlay.formats.strict_json import MAX_DEPTH, JsonProblem

CONFIG = b"""\
{
  "architectures": ["GlmMoeDsaForCausalLM"],
  "rms_norm_eps": 1e-5,
  "eos_token_id": [
    151329,
    151336
  ],
  "quantization_config": {"ignore": [], "bits" : 4},
  "text\\u00e9": "\\/",
  "empty": {}
}
"""


# --- styles: how a document can be written


@st.composite
def styles(draw: st.DrawFn) -> dict[str, Any]:
    indent = draw(st.sampled_from([None, None, 0, 1, 2, 4, "\t"]))
    comma = draw(st.sampled_from([",", ", "])) if indent is None else ","
    return {
        "indent": indent,
        "separators": (comma, draw(st.sampled_from([":", ": ", " : "]))),
        "ensure_ascii": draw(st.booleans()),
    }


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.integers(2**63, 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.sampled_from('a:,"\\{}[]\n é😀/~'), max_size=5),
)
NAMES = st.sampled_from(["a", "b", "", "a/b", "~", '"', "é", "0", "-", "\\", "{,:"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=8,
)
CONTAINERS = VALUES.filter(lambda value: isinstance(value, list | dict))


def dumped(value: Any, style: dict[str, Any], final: str = "\n") -> bytes:
    """`value` beside members that show every separator of the style and, unless escaped, a letter outside of ASCII."""
    document = {"first": [1, 2], "value": value, "é": {"last": None}}
    return (json.dumps(document, **style) + final).encode()


def places(value: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, child in children for place in places(child, (*at, str(key))))]


def at_place(value: Any, place: tuple[str, ...]) -> Any:
    for token in place:
        value = value[int(token)] if isinstance(value, list) else value[token]
    return value


def edited(value: Any, place: tuple[str, ...], edit: Any) -> Any:
    """A copy of `value` in which `edit(container, key)` was called for `place`."""
    value = copy.deepcopy(value)
    container = at_place(value, place[:-1])
    edit(container, int(place[-1]) if isinstance(container, list) and place[-1] != "-" else place[-1])
    return value


# --- laws


@settings(max_examples=150)
@given(styles(), CONTAINERS, VALUES, st.data(), st.sampled_from(["", "\n", " \n\n"]))
def test_replacing_is_dumping_the_new_value_in_the_same_style(
    style: dict[str, Any], value: Any, new: Any, data: st.DataObject, final: str
) -> None:
    place = ("value", *data.draw(st.sampled_from(places(value))))
    old = at_place({"value": value}, place)
    expected = edited({"value": value}, place, lambda container, key: container.__setitem__(key, new))["value"]
    text = dumped(value, style, final)

    result = replace(read(text), place, new)

    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):
        assert text == result
    else:
        assert dumped(expected, style, final) == result


@settings(max_examples=150)
@given(styles(), CONTAINERS, VALUES, st.data())
def test_adding_is_dumping_the_longer_value_in_the_same_style(
    style: dict[str, Any], value: Any, new: Any, data: st.DataObject
) -> None:
    within = data.draw(st.sampled_from([p for p in places(value) if isinstance(at_place(value, p), list | dict)]))
    container = at_place(value, within)
    text = read(dumped(value, style))
    if isinstance(container, list):
        index = data.draw(st.integers(0, len(container)))
        result = insert_item(text, ("value", *within), index, new)
        changed = edited({"value": value}, ("value", *within, str(index)), lambda items, key: items.insert(key, new))
    else:
        name = data.draw(NAMES.filter(lambda name: name not in container))
        result = insert_member(text, ("value", *within), name, new)
        changed = edited({"value": value}, ("value", *within, name), lambda members, key: members.__setitem__(key, new))

    assert dumped(changed["value"], style) == result


@settings(max_examples=100)
@given(styles(), CONTAINERS.filter(bool), st.data())
def test_removing_is_dumping_the_shorter_value_in_the_same_style(
    style: dict[str, Any], value: Any, data: st.DataObject
) -> None:
    place = ("value", *data.draw(st.sampled_from([place for place in places(value) if place])))
    expected = edited({"value": value}, place, lambda container, key: container.__delitem__(key))["value"]

    assert dumped(expected, style) == remove(read(dumped(value, style)), place)


@settings(max_examples=80)
@given(styles(), CONTAINERS, VALUES, st.data())
def test_an_edit_and_its_inverse_give_the_original_bytes(
    style: dict[str, Any], value: Any, new: Any, data: st.DataObject
) -> None:
    place = ("value", *data.draw(st.sampled_from(places(value))))
    text = read(dumped(value, style))
    old = value_at(text, place)

    assert text == replace(replace(text, place, new), place, old)
    assert text == remove(add(text, ("added",), new), ("added",))
    assert text == remove(add(text, ("first", "0"), new), ("first", "0"))
    assert text == remove(add(text, ("first", "-"), new), ("first", "2"))


# --- documents that follow no style


BLANKS = st.sampled_from(["", "", " ", "\n", "\n    ", "\t", "\r\n  ", "  \n"])


@st.composite
def untidy(draw: st.DrawFn, depth: int = 3) -> str:
    """A value with random blanks, odd spellings of numbers, and escapes for no need."""

    def blank() -> str:
        return draw(BLANKS)

    kind = draw(st.sampled_from(["object", "array", "scalar"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(st.sampled_from(["1e-5", "1E+2", "0.10", "-0", "true", "null", '"\\u0061"', '"é"', '"\\"{,"', "7"]))
    values = [draw(untidy(depth - 1)) for _ in range(draw(st.integers(0, 3)))]
    if kind == "array":
        return "[" + (",".join(f"{blank()}{value}{blank()}" for value in values) or blank()) + "]"
    names = draw(st.lists(st.sampled_from(['"a"', '"\\u0062"', '"c:"', '"~/"', '"0"']), unique=True, max_size=3))
    members = [f"{blank()}{name}{blank()}:{blank()}{v}{blank()}" for name, v in zip(names, values, strict=False)]
    return "{" + (",".join(members) or blank()) + "}"


def spans(text: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Where each value lies, found by the standard library's decoder: independent of what is tested."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    decoder = json.JSONDecoder()

    def skip(at: int) -> int:
        match = re.compile(r"[ \t\r\n]*").match(text, at)
        assert match
        return match.end()

    def visit(at: int, place: tuple[str, ...]) -> int:
        _, end = decoder.raw_decode(text, at)
        found[place] = (at, end)
        number, inner = 0, skip(at + 1)
        while text[at] in "{[" and inner < end - 1:
            token = str(number)
            if text[at] == "{":
                token, inner = decoder.raw_decode(text, inner)
                inner = skip(skip(inner) + 1)
            inner = skip(visit(inner, (*place, token)))
            inner = skip(inner + 1) if text[inner] == "," else inner
            number += 1
        return end

    visit(skip(0), ())
    return found


@settings(max_examples=150)
@given(untidy(), VALUES, st.data())
def test_whatever_the_style_only_the_replaced_value_changes(text: str, new: Any, data: st.DataObject) -> None:
    found = spans(text)
    place = data.draw(st.sampled_from(sorted(found)))
    begin, end = found[place]

    result = replace(read(text.encode()), place, new).decode()

    assert text[:begin] == result[:begin]
    assert text[end:] == result[len(result) - len(text) + end :]
    assert json.dumps(new) == json.dumps(value_at(read(result.encode()), place)) or result == text


@settings(max_examples=150)
@given(untidy(), VALUES, st.data())
def test_whatever_the_style_an_addition_only_adds(text: str, new: Any, data: st.DataObject) -> None:
    found = spans(text)
    value = json.loads(text)
    containers = [place for place in sorted(found) if isinstance(at_place(value, place), list | dict)]
    if not containers:
        return
    within = data.draw(st.sampled_from(containers))
    container = at_place(value, within)
    token = str(data.draw(st.integers(0, len(container)))) if isinstance(container, list) else "new"
    expected = edited(
        {"": value},
        ("", *within, token),
        lambda c, key: c.insert(key, new) if isinstance(c, list) else c.__setitem__(key, new),
    )[""]

    result = add(read(text.encode()), (*within, token), new).decode()

    assert json.dumps(expected) == json.dumps(json.loads(result))
    same = [place for place in found if place[: len(within)] != within and place != within[: len(place)]]
    after = spans(result)
    assert {p: text[slice(*found[p])] for p in same} == {p: result[slice(*after[p])] for p in same}
    if container:  # nothing was taken away: the old text is the new one without one piece
        cut = len(result) - len(text)
        assert any(result[:at] + result[at + cut :] == text for at in range(len(text) + 1))


@settings(max_examples=150)
@given(untidy(), st.data())
def test_whatever_the_style_a_removal_only_removes_one_piece(text: str, data: st.DataObject) -> None:
    found = [place for place in sorted(spans(text)) if place]
    if not found:
        return
    place = data.draw(st.sampled_from(found))
    expected = edited({"": json.loads(text)}, ("", *place), lambda container, key: container.__delitem__(key))[""]

    result = remove(read(text.encode()), place).decode()

    assert json.dumps(expected) == json.dumps(json.loads(result))
    cut = len(text) - len(result)
    assert any(text[:at] + text[at + cut :] == result for at in range(len(result) + 1))


@settings(max_examples=80)
@given(untidy(), st.data())
def test_an_excerpt_put_elsewhere_keeps_the_spelling_of_its_scalars(text: str, data: st.DataObject) -> None:
    place = data.draw(st.sampled_from(sorted(spans(text))))
    begin, end = spans(text)[place]
    tokens = r'"(?:[^"\\]|\\.)*"|[^\s"]'

    result = replace(read(b'{"here":"?"}'), ("here",), excerpt(read(text.encode()), place))

    assert re.findall(tokens, text[begin:end]) == re.findall(tokens, result.decode()[len('{"here":') : -1])


# --- examples that a person can judge


@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [
        (lambda t: replace(t, ("rms_norm_eps",), 1e-6), b"1e-5", b"1e-06"),
        (lambda t: replace(t, ("rms_norm_eps",), 0.00001), b"1e-5", b"1e-5"),
        (lambda t: insert_item(t, ("eos_token_id",), None, 7), b"151336\n", b"151336,\n    7\n"),
        (lambda t: insert_item(t, ("eos_token_id",), 0, 7), b"    151329", b"    7,\n    151329"),
        (lambda t: remove(t, ("eos_token_id", "0")), b"151329,\n    ", b""),
        (lambda t: remove(t, ("eos_token_id", "1")), b",\n    151336", b""),
        (lambda t: insert_item(t, ("architectures",), None, "é"), b'CausalLM"', b'CausalLM", "\\u00e9"'),
        (lambda t: replace(t, ("architectures",), ["A", "B"]), b'["GlmMoeDsaForCausalLM"]', b'["A", "B"]'),
        (lambda t: add(t, ("quantization_config", "ignore", "-"), "a*"), b'"ignore": []', b'"ignore": ["a*"]'),
        (lambda t: add(t, ("quantization_config", "x"), [1, {}]), b'"bits" : 4', b'"bits" : 4, "x": [1, {}]'),
        (lambda t: add(t, ("empty", "a"), {"b": [1]}), b'{}',
         b'{\n    "a": {\n      "b": [\n        1\n      ]\n    }\n  }'),
        (lambda t: remove(t, ("empty",)), b',\n  "empty": {}', b""),
        (lambda t: remove(t, ("architectures",)), b'"architectures": ["GlmMoeDsaForCausalLM"],\n  ', b""),
        (lambda t: remove(t, ("quantization_config", "bits")), b', "bits" : 4', b""),
    ],
)  # fmt: skip
def test_an_edit_changes_what_a_person_would_change(edit: Any, old: bytes, new: bytes) -> None:
    assert CONFIG.replace(old, new) == edit(read(CONFIG))


@pytest.mark.parametrize(
    ("text", "tokens", "value", "expected"),
    [
        (b"{}", ("a",), 1, b'{"a": 1}'),
        (b"{\n}\n", ("a",), [1], b'{\n  "a": [\n    1\n  ]\n}\n'),
        (b"[]", ("-",), {"a": 1}, b'[{"a": 1}]'),
        (b'{"a":{}}', ("a", "b"), [1, 2], b'{"a":{"b":[1,2]}}'),
        (b"[1,2]", ("-",), {"a": [3, 4]}, b'[1,2,{"a":[3,4]}]'),
        (b"[ 1 ]", ("-",), 2, b"[ 1, 2 ]"),
        (b"[\n  [1, 2],\n  [3, 4]\n]", ("-",), [5, 6], b"[\n  [1, 2],\n  [3, 4],\n  [5, 6]\n]"),
        (b'{\r\n\t"a": 1\r\n}\r\n', ("b",), [1], b'{\r\n\t"a": 1,\r\n\t"b": [\r\n\t\t1\r\n\t]\r\n}\r\n'),
        (b'{ "a": 1\n, "b": 2\n}', ("c",), 3, b'{ "a": 1\n, "b": 2\n, "c": 3\n}'),
        (b'{"a": "\xc3\xa9"}', ("b",), "\u00e8", b'{"a": "\xc3\xa9", "b": "\xc3\xa8"}'),
        (b'{"a": "e"}', ("\u00e8",), "\u00e8", b'{"a": "e", "\\u00e8": "\\u00e8"}'),
        (b' {"a": 1} ', (), [1], b" [1] "),
        (b'{\n  "a": 1\n}\n', (), {"b": [], "c": [2]}, b'{\n  "b": [],\n  "c": [\n    2\n  ]\n}\n'),
        (b"1\n", (), {"a": [1, 2]}, b'{"a": [1, 2]}\n'),
    ],
)
def test_a_new_value_follows_its_surroundings(
    text: bytes, tokens: tuple[str, ...], value: Any, expected: bytes
) -> None:
    assert expected == add(read(text), tokens, value)


def test_a_moved_block_keeps_its_lines_and_takes_the_new_indent() -> None:
    text = read(b'{\n  "a": {\n    "b": {\n      "c": [1e5, 2],\n      "d": 1.0\n    }\n  }\n}\n')

    result = add(text, ("e",), excerpt(text, ("a", "b")))

    assert text[:-3] + b',\n  "e": {\n    "c": [1e5, 2],\n    "d": 1.0\n  }\n}\n' == result


# --- refusals


@pytest.mark.parametrize(
    ("tokens", "message", "within"),
    [
        (("missing", "x"), "expected a member 'missing', found architectures, rms_norm_eps, eos_token_id, "
                           "quantization_config, texté, …", ()),
        (("empty", "x"), "expected a member 'x', found an empty object", ("empty",)),
        (("eos_token_id", "2"), "expected an index below 2, found index 2", ("eos_token_id",)),
        (("eos_token_id", "9" * 5000), f"expected an index below 2, found index {'9' * 20}", ("eos_token_id",)),
        (("eos_token_id", "01"), "expected an array index, found '01'", ("eos_token_id",)),
        (("eos_token_id", "-1"), "expected an array index, found '-1'", ("eos_token_id",)),
        (("eos_token_id", "٣"), "expected an array index, found '٣'", ("eos_token_id",)),
        (("eos_token_id", "-"), "expected an item, found '-', the place after the last item", ("eos_token_id",)),
        (("quantization_config", "ignore", "0"), "expected an item 0, found an empty array",
         ("quantization_config", "ignore")),
        (("rms_norm_eps", "x"), "expected an object or array, found 1e-5", ("rms_norm_eps",)),
    ],
)  # fmt: skip
def test_a_place_that_is_not_there_is_described(tokens: tuple[str, ...], message: str, within: tuple[str, ...]) -> None:
    for edit in (value_at, excerpt, remove, lambda text, place: replace(text, place, 1)):
        with pytest.raises(NoSuchPlace) as caught:
            edit(read(CONFIG), tokens)  # type: ignore[operator]

        assert (message, within) == (str(caught.value), caught.value.within)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: add(t, ("eos_token_id", "3"), 1), "expected an index of at most 2, found 3"),
        (lambda t: add(t, ("eos_token_id", "x"), 1), "expected an array index, found 'x'"),
        (lambda t: add(t, ("rms_norm_eps", "x"), 1), "expected an object or array, found 1e-5"),
        (lambda t: insert_item(t, ("empty",), 0, 1), "expected an array, found {}"),
        (lambda t: insert_member(t, ("eos_token_id",), "a", 1), "expected an object, found [\n    151329,\n    151336\n  ]"),
        (lambda t: remove(t, ()), "expected a member or an item, found the whole document"),
    ],
)  # fmt: skip
def test_a_container_that_does_not_fit_is_refused(edit: Any, message: str) -> None:
    with pytest.raises(NoSuchPlace) as caught:
        edit(read(CONFIG))

    assert message == str(caught.value)


def test_a_member_is_not_inserted_twice() -> None:
    with pytest.raises(KeyError):
        insert_member(read(CONFIG), (), "text\u00e9", 1)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], "\ud800", {"\udfff": 1}])
@pytest.mark.parametrize("text", [b"[0]", '["é"]'.encode()])
def test_a_value_that_json_cannot_hold_is_refused(value: Any, text: bytes) -> None:
    with pytest.raises(JsonProblem, match="expected a value that JSON can hold"):
        replace(read(text), ("0",), value)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_what_an_edit_gives_can_be_read_again_at_the_greatest_depth() -> None:
    text = read(b'{"a": [0]}')

    assert read(replace(text, ("a", "0"), nested(MAX_DEPTH - 2)))
    assert read(add(text, ("a", "-"), JsonText(json.dumps(nested(MAX_DEPTH - 2)).encode())))
    for edit in (replace, add):
        with pytest.raises(JsonProblem, match="at most 127 nested levels"):
            edit(text, ("a", "0"), nested(MAX_DEPTH - 1))
    with pytest.raises(JsonProblem, match="at most 127 nested levels"):
        insert_member(text, (), "b", JsonText(json.dumps(nested(MAX_DEPTH)).encode()))
    with pytest.raises(JsonProblem, match="at most 127 nested levels"):
        replace(text, ("a",), nested(100_000))


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":1,"a":2}', b"[1,]", b"\xff", b"NaN", b'\xef\xbb\xbf{"a":1}'])
def test_only_strict_json_is_read(text: bytes) -> None:
    with pytest.raises(JsonProblem):
        read(text)
