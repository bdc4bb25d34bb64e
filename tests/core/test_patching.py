"""Patching: the examples of the RFCs, an independent reference, and what two changes to one file have in common."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.core.patching import (
    JsonPointer,
    PointerProblem,
    Touch,
    apply_change,
    conflicts,
    equal,
    make_patch,
    merged,
    touched,
)
from overlay.errors import Conflict, InvalidInput, OverlayError
from overlay.formats.json_text import read
from overlay.formats.manifest import FileChange


def patch_of(*operations: dict[str, Any]) -> FileChange:
    return FileChange.model_validate({"patch": list(operations)})


def merge_of(value: dict[str, Any]) -> FileChange:
    return FileChange.model_validate({"merge": value})


def op(op: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "path": path, **more}


def patched(document: Any, *operations: dict[str, Any]) -> Any:
    return json.loads(apply_change("f.json", json.dumps(document).encode(), patch_of(*operations)))


# --- JSON Pointer (RFC 6901)

RFC_6901 = {
    "": (), "/foo": ("foo",), "/foo/0": ("foo", "0"), "/": ("",), "/a~1b": ("a/b",), "/c%d": ("c%d",),
    "/e^f": ("e^f",), "/g|h": ("g|h",), "/i\\j": ("i\\j",), '/k"l': ('k"l',), "/ ": (" ",), "/m~0n": ("m~n",),
    "/~01": ("~1",), "//": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize(("text", "tokens"), RFC_6901.items())
def test_the_pointers_of_rfc_6901_section_5_are_read(text: str, tokens: tuple[str, ...]) -> None:
    assert JsonPointer(tokens) == JsonPointer.parse(text)
    assert text == str(JsonPointer(tokens))


@given(st.lists(st.text(st.sampled_from("~/01a-é"), max_size=5)).map(tuple))
def test_a_printed_pointer_parses_to_itself(tokens: tuple[str, ...]) -> None:
    assert JsonPointer(tokens) == JsonPointer.parse(str(JsonPointer(tokens)))


@given(st.text(st.sampled_from("~/01a"), max_size=8))
def test_a_pointer_is_refused_or_prints_as_it_was_written(text: str) -> None:
    try:
        pointer = JsonPointer.parse(text)
    except PointerProblem:
        assert (text and text[0] != "/") or "~" in text.replace("~0", "").replace("~1", "")
    else:
        assert text == str(pointer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b", "expected a JSON Pointer such as /a/b/0, found 'a/b'"),
        ("#/a", "expected a JSON Pointer such as /a/b/0, found '#/a'"),
        ("/a~2", "expected ~0 (a tilde) or ~1 (a slash), found '~2' in '/a~2'"),
        ("/~", "expected ~0 (a tilde) or ~1 (a slash), found '~' in '/~'"),
    ],
)
def test_a_malformed_pointer_is_refused(text: str, message: str) -> None:
    with pytest.raises(PointerProblem) as caught:
        JsonPointer.parse(text)

    assert message == str(caught.value)


# --- RFC 6902, appendix A

RFC_6902: dict[str, tuple[Any, list[dict[str, Any]], Any]] = {
    "A.1 adding a member": ({"foo": "bar"}, [op("add", "/baz", value="qux")], {"baz": "qux", "foo": "bar"}),
    "A.2 adding an item": (
        {"foo": ["bar", "baz"]}, [op("add", "/foo/1", value="qux")], {"foo": ["bar", "qux", "baz"]}),
    "A.3 removing a member": ({"baz": "qux", "foo": "bar"}, [op("remove", "/baz")], {"foo": "bar"}),
    "A.4 removing an item": ({"foo": ["bar", "qux", "baz"]}, [op("remove", "/foo/1")], {"foo": ["bar", "baz"]}),
    "A.5 replacing a value": (
        {"baz": "qux", "foo": "bar"}, [op("replace", "/baz", value="boo")], {"baz": "boo", "foo": "bar"}),
    "A.6 moving a value": (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
    "A.7 moving an item": (
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]}),
    "A.8 testing: success": (
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [op("test", "/baz", value="qux"), op("test", "/foo/1", value=2)],
        {"baz": "qux", "foo": ["a", 2, "c"]}),
    "A.9 testing: error": ({"baz": "qux"}, [op("test", "/baz", value="bar")], Conflict),
    "A.10 adding a nested object": (
        {"foo": "bar"}, [op("add", "/child", value={"grandchild": {}})], {"foo": "bar", "child": {"grandchild": {}}}),
    # A.11 (members that the RFC does not know are ignored) stays with the manifest, which refuses unknown keys.
    "A.12 adding to a target that is not there": ({"foo": "bar"}, [op("add", "/baz/bat", value="qux")], Conflict),
    # A.13 (a repeated "op") stays with the manifest's reader, which refuses repeated keys.
    "A.14 ~ escape ordering": ({"/": 9, "~1": 10}, [op("test", "/~01", value=10)], {"/": 9, "~1": 10}),
    "A.15 strings and numbers": ({"/": 9, "~1": 10}, [op("test", "/~01", value="10")], Conflict),
    "A.16 adding an array": ({"foo": ["bar"]}, [op("add", "/foo/-", value=["abc", "def"])],
                             {"foo": ["bar", ["abc", "def"]]}),
    # section 4
    "4.1 add replaces the document": ({"a": 1}, [op("add", "", value=[1])], [1]),
    "4.1 add replaces a member": ({"a": 1, "b": 2}, [op("add", "/a", value=None)], {"a": None, "b": 2}),
    "4.1 add at the array's length": ([1], [op("add", "/1", value=2)], [1, 2]),
    "4.1 add past the array's end": ([1], [op("add", "/2", value=2)], Conflict),
    "4.2 remove what is not there": ({"a": 1}, [op("remove", "/b")], Conflict),
    "4.2 remove the place after the end": ([1], [op("remove", "/-")], Conflict),
    "4.3 replace what is not there": ({"a": 1}, [op("replace", "/b", value=1)], Conflict),
    "4.3 replace without a value": ({"a": 1}, [op("replace", "/a")], InvalidInput),
    "4.3 replace by null": ({"a": 1}, [op("replace", "/a", value=None)], {"a": None}),
    "4.4 move onto itself": ({"a": {"b": 1}, "c": 2}, [op("move", "/a", **{"from": "/a"})], {"a": {"b": 1}, "c": 2}),
    "4.4 move what is not there onto itself": ({}, [op("move", "/a", **{"from": "/a"})], Conflict),
    "4.4 move into its own child": ({"a": {"b": 1}}, [op("move", "/a/b", **{"from": "/a"})], Conflict),
    "4.4 move to its own parent": ({"a": {"b": 1}}, [op("move", "/a", **{"from": "/a/b"})], {"a": 1}),
    "4.4 move to a longer name": ({"a": {"b": 1}}, [op("move", "/ab", **{"from": "/a"})], {"ab": {"b": 1}}),
    "4.4 move without from": ({"a": 1}, [op("move", "/b")], InvalidInput),
    "4.5 copy": ({"a": [1]}, [op("copy", "/b", **{"from": "/a"})], {"a": [1], "b": [1]}),
    "4.5 copy into its own child": ({"a": [1]}, [op("copy", "/a/0", **{"from": "/a"})], {"a": [[1], 1]}),
    "4.6 numbers are equal by value": ({"a": [1, 1e2]}, [op("test", "/a", value=[1.0, 100])], {"a": [1, 1e2]}),
    "4.6 a boolean is no number": ({"a": 1}, [op("test", "/a", value=True)], Conflict),
    "4.6 nor is one inside": ({"a": [0]}, [op("test", "", value={"a": [False]})], Conflict),
    "4.6 the order of members does not count": (
        {"a": 1, "b": 2}, [op("test", "", value={"b": 2, "a": 1})], {"a": 1, "b": 2}),
    "4.6 null is a value": ({"a": None}, [op("test", "/a", value=None)], {"a": None}),
    "4.6 test without a value": ({"a": None}, [op("test", "/a")], InvalidInput),
    "5 all or nothing": ({"a": 1}, [op("remove", "/a"), op("test", "/a", value=1)], Conflict),
    "a malformed pointer": ({"a": 1}, [op("remove", "a")], InvalidInput),
    "a malformed from": ({"a": 1}, [op("copy", "/b", **{"from": "a"})], InvalidInput),
    "a leading zero": ([1, 2], [op("remove", "/01")], Conflict),
    "a dash is a name in an object": ({"a": {}}, [op("add", "/a/-", value=1)], {"a": {"-": 1}}),
    "a value that JSON cannot hold": ({"a": 1}, [op("add", "/a", value=float("nan"))], InvalidInput),
}  # fmt: skip


@pytest.mark.parametrize(("document", "operations", "expected"), RFC_6902.values(), ids=RFC_6902)
def test_the_examples_of_rfc_6902_come_out(document: Any, operations: list[dict[str, Any]], expected: Any) -> None:
    if isinstance(expected, type):
        with pytest.raises(expected):
            patched(document, *operations)
    else:
        assert exact(expected) == exact(patched(document, *operations))


def exact(value: Any) -> str:
    """A spelling that tells 1 from 1.0 and from true, whatever the order of members."""
    return json.dumps(value, sort_keys=True)


# --- RFC 7396, appendix A

RFC_7396: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    # section 3
    ({"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["example"], "content": "x"},
     {"title": "Hello!", "phoneNumber": "+01", "author": {"familyName": None}, "tags": ["a"]},
     {"title": "Hello!", "author": {"givenName": "John"}, "tags": ["a"], "content": "x", "phoneNumber": "+01"}),
    ({"a": 1}, {"b": {"c": [None]}}, {"a": 1, "b": {"c": [None]}}),
]  # fmt: skip


@pytest.mark.parametrize(("document", "patch", "expected"), RFC_7396)
def test_the_examples_of_rfc_7396_come_out(document: Any, patch: Any, expected: Any) -> None:
    assert exact(expected) == exact(json.loads(merged(read(json.dumps(document).encode()), patch)))


# --- an independent reference, in memory


class Refused(Exception):
    pass


def tokens_of(text: str) -> list[str]:
    return [token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:]]


def step(value: Any, token: str) -> Any:
    if isinstance(value, dict) and token in value:
        return value[token]
    if isinstance(value, list) and token.isdecimal() and token == str(int(token)) and int(token) < len(value):
        return value[int(token)]
    raise Refused


def put(holder: dict[str, Any], text: str, value: Any, *, insert: bool) -> None:
    *within, last = ["", *tokens_of(text)]
    container: Any = holder
    for token in within:
        container = step(container, token)
    if isinstance(container, list):
        index = len(container) if last == "-" and insert else int(last) if last.isdecimal() else -1
        if not 0 <= index <= len(container) - (not insert) or (last != "-" and str(index) != last):
            raise Refused
        container[index : index + (not insert)] = [value]
    elif isinstance(container, dict) and (insert or last in container):
        container[last] = value
    else:
        raise Refused


def take(holder: dict[str, Any], text: str) -> Any:
    *within, last = ["", *tokens_of(text)]
    container: Any = holder
    for token in within:
        container = step(container, token)
    value = step(container, last)
    del container[int(last) if isinstance(container, list) else last]
    return value


def get(holder: dict[str, Any], text: str) -> Any:
    value: Any = holder
    for token in ["", *tokens_of(text)]:
        value = step(value, token)
    return copy.deepcopy(value)


def reference_patch(document: Any, operations: list[dict[str, Any]]) -> Any:
    holder = {"": copy.deepcopy(document)}
    for operation in operations:
        path, source = operation["path"], operation.get("from", "")
        match operation["op"]:
            case "add":
                put(holder, path, copy.deepcopy(operation["value"]), insert=True)
            case "replace":
                put(holder, path, copy.deepcopy(operation["value"]), insert=False)
            case "remove" if path:
                take(holder, path)
            case "copy":
                put(holder, path, get(holder, source), insert=True)
            case "move" if path == source:
                get(holder, source)
            case "move" if not path.startswith(f"{source}/") and source:
                put(holder, path, take(holder, source), insert=True)
            case "test" if exact(get(holder, path)) == exact(operation["value"]):
                pass
            case _:
                raise Refused
    return holder[""]


def reference_merge(target: Any, patch: Any) -> Any:
    """The pseudocode of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = reference_merge(target.get(name), value)
    return target


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(2**64, 2**65), st.floats(0, 1), st.sampled_from(["", "é"])
)
NAMES = st.sampled_from(["a", "b", "a/b", "~", "0", "-"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=8,
)
TOKENS = st.sampled_from(["a", "b", "a/b", "~", "0", "1", "2", "-", "01", "zz"])


def places(value: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, child in children for place in places(child, (*at, str(key))))]


@st.composite
def patches(draw: st.DrawFn, document: Any) -> list[dict[str, Any]]:
    """Operations that mostly fit: each is drawn for the document that those before it give."""
    operations: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        try:
            known = places(reference_patch(document, operations))
        except Refused:
            known = [()]

        def pointer(known: list[tuple[str, ...]] = known) -> str:
            more = (draw(TOKENS),) if draw(st.booleans()) else ()
            return str(JsonPointer((*draw(st.sampled_from(known)), *more)))

        kind = draw(st.sampled_from(["add", "add", "remove", "replace", "move", "copy", "test"]))
        operation = {"op": kind, "path": pointer()}
        if kind in ("move", "copy"):
            operation["from"] = pointer()
        elif kind == "test":
            try:
                operation["value"] = get({"": reference_patch(document, operations)}, operation["path"])
            except Refused:
                operation["value"] = draw(VALUES)
        elif kind != "remove":
            operation["value"] = draw(VALUES)
        operations.append(operation)
    return operations


INDENTS = st.sampled_from([None, 0, 2, "\t"])


@settings(max_examples=250)
@given(VALUES, INDENTS, st.data())
def test_a_patch_gives_what_the_reference_gives(document: Any, indent: Any, data: st.DataObject) -> None:
    operations = data.draw(patches(document))
    try:
        expected = exact(reference_patch(document, operations))
    except Refused:
        expected = "refused"
    text = json.dumps(document, indent=indent).encode()

    try:
        found = exact(json.loads(apply_change("f.json", text, patch_of(*operations))))
    except Conflict:
        found = "refused"

    assert expected == found


@settings(max_examples=150)
@given(VALUES, INDENTS, st.dictionaries(NAMES, VALUES, max_size=4))
def test_a_merge_gives_what_the_reference_gives(document: Any, indent: Any, patch: dict[str, Any]) -> None:
    text = json.dumps(document, indent=indent).encode()

    result = apply_change("f.json", text, merge_of(patch))

    assert exact(reference_merge(document, patch)) == exact(json.loads(result))
    assert result == apply_change("f.json", result, merge_of(patch))


CONFIG = b"""{
  "hidden_size": 4096,
  "rms_norm_eps": 1e-5,
  "eos": [1, 2],
  "quantization_config": {
    "ignore": [
      "lm_head"
    ],
    "bits" : 4
  }
}
"""


def test_a_patched_config_differs_only_where_the_patch_says_so() -> None:
    change = patch_of(
        op("test", "/hidden_size", value=4096),
        op("add", "/quantization_config/ignore/-", value="model.layers.78*"),
        op("replace", "/eos", value=[1, 2, 3]),
        op("copy", "/eps", **{"from": "/rms_norm_eps"}),
    )

    expected = CONFIG.replace(b'"lm_head"\n', b'"lm_head",\n      "model.layers.78*"\n')
    expected = expected.replace(b"[1, 2]", b"[1, 2, 3]").replace(b"4\n  }\n", b'4\n  },\n  "eps": 1e-5\n')
    assert expected == apply_change("config.json", CONFIG, change)


def test_a_merged_config_differs_only_where_the_merge_says_so() -> None:
    change = merge_of(
        {"rms_norm_eps": 0.00001, "quantization_config": {"bits": 8, "x": None, "group": 32}, "eos": None}
    )

    expected = CONFIG.replace(b'bits" : 4', b'bits" : 8,\n    "group": 32').replace(b'  "eos": [1, 2],\n', b"")
    assert expected == apply_change("config.json", CONFIG, change)


# --- errors


@pytest.mark.parametrize(
    ("operations", "kind", "line", "hint"),
    [
        ([op("test", "/hidden_size", value=5120)], Conflict,
         "config.json: /hidden_size: operation 1 (test): expected 5120, found 4096",
         "correct the change in the manifest, or pin the revision of the file that it was written for"),
        ([op("remove", "/eos"), op("test", "/quantization_config", value="x" * 200)], Conflict,
         'config.json: /quantization_config: operation 2 (test): expected "' + "x" * 78 + '…, found '
         '{"ignore": ["lm_head"], "bits": 4}', "correct the change"),
        ([op("remove", "/quantization_config/ignored")], Conflict,
         "config.json: /quantization_config/ignored: operation 1 (remove): expected a member 'ignored' in "
         "/quantization_config, found ignore, bits", "did you mean /quantization_config/ignore?"),
        ([op("add", "/eos/7", value=1)], Conflict,
         "config.json: /eos/7: operation 1 (add): expected an index of at most 2 in /eos, found 7", "correct the change"),
        ([op("copy", "/x", **{"from": "/eos/2"})], Conflict,
         "config.json: /eos/2: operation 1 (copy): expected an index below 2 in /eos, found index 2",
         "correct the change"),
        ([op("move", "/eos/0", **{"from": "/eos"})], Conflict,
         "config.json: /eos/0: operation 1 (move): expected a path outside of '/eos', found one inside of what is moved",
         "copy the value, or move it elsewhere"),
        ([op("remove", "")], Conflict,
         "config.json: operation 1 (remove): expected a member or an item in the document, found the whole document",
         "correct the change"),
        ([op("add", "/x")], InvalidInput,
         "config.json: /x: operation 1 (add): expected a value (null is one), found none",
         "correct operation 1 of the patch in the manifest"),
        ([op("remove", "/eos"), op("remove", "eos")], InvalidInput,
         "config.json: eos: operation 2 (remove): expected a JSON Pointer such as /a/b/0, found 'eos'",
         "correct operation 2 of the patch in the manifest"),
    ],
)  # fmt: skip
def test_an_error_names_file_pointer_operation_expected_and_found(
    operations: list[dict[str, Any]], kind: type[OverlayError], line: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        apply_change("config.json", CONFIG, patch_of(*operations))

    assert line == caught.value.line
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": 1, "a": 2}', b"\xff\xfe"])
@pytest.mark.parametrize("change", [patch_of(), merge_of({"a": 1})])
def test_a_text_that_is_not_strict_json_is_invalid(text: bytes, change: FileChange) -> None:
    with pytest.raises(InvalidInput, match="config.json: expected"):
        apply_change("config.json", text, change)


def test_a_merge_of_what_json_cannot_hold_is_invalid() -> None:
    with pytest.raises(InvalidInput, match="config.json: merge: expected a value that JSON can hold, found {'b': inf}"):
        apply_change("config.json", CONFIG, merge_of({"a": {"b": float("inf")}}))


def test_an_empty_patch_keeps_the_text() -> None:
    assert apply_change("config.json", CONFIG, patch_of()) == CONFIG
    assert apply_change("config.json", CONFIG, merge_of({})) == CONFIG


@pytest.mark.parametrize("change", [{"from": "base/config.json"}, {"remove": True}])
def test_a_change_of_the_whole_file_is_not_applied_to_text(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="patch or merge"):
        apply_change("config.json", CONFIG, FileChange.model_validate(change))


@given(VALUES, VALUES)
@example(1, True)
@example([0], [False])
@example(1, 1.0)
def test_equality_is_symmetric_and_keeps_booleans_apart(one: Any, other: Any) -> None:
    assert equal(one, one)
    assert equal(one, other) == equal(other, one)
    assert equal(one, other) or exact(one) != exact(other)
    assert not equal({"x": [True]}, {"x": [1]})


# --- what a change touches

TOUCHED: list[tuple[dict[str, Any], list[Touch]]] = [
    ({"from": "hf://org/name/config.json"}, [Touch((), True)]),
    ({"remove": True}, [Touch((), True)]),
    ({"patch": []}, []),
    ({"patch": [op("test", "/a/0", value=1)]}, [Touch(("a", "0"), False)]),
    ({"patch": [op("replace", "/a/0", value=1)]}, [Touch(("a", "0"), True)]),
    ({"patch": [op("add", "/a~1b", value=1)]}, [Touch(("a/b",), True)]),
    ({"patch": [op("add", "", value=1)]}, [Touch((), True)]),
    ({"patch": [op("add", "/a/-", value=1)]}, [Touch(("a",), True, append=True)]),
    ({"patch": [op("add", "/a/3", value=1)]}, [Touch(("a", "3"), True, shift=True)]),
    ({"patch": [op("remove", "/a/3")]}, [Touch(("a", "3"), True, shift=True)]),
    ({"patch": [op("remove", "/a")]}, [Touch(("a",), True)]),
    ({"patch": [op("copy", "/b/-", **{"from": "/a/1"})]}, [Touch(("a", "1"), False), Touch(("b",), True, append=True)]),
    ({"patch": [op("move", "/b", **{"from": "/a"})]}, [Touch(("a",), True), Touch(("b",), True)]),
    ({"patch": [op("move", "/b", **{"from": "/a/1"})]}, [Touch(("a", "1"), True, shift=True), Touch(("b",), True)]),
    ({"merge": {}}, []),
    ({"merge": {"a": {"b": 1, "c": {}}, "d": None}},
     [Touch(("a", "b"), True), Touch(("a", "c"), True), Touch(("d",), True)]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), TOUCHED)
def test_a_change_tells_what_it_touches(change: dict[str, Any], expected: list[Touch]) -> None:
    assert expected == touched(FileChange.model_validate(change))


def test_what_a_malformed_patch_touches_is_invalid() -> None:
    with pytest.raises(InvalidInput, match="x: expected a JSON Pointer"):
        touched(patch_of(op("remove", "x")))


CONFLICTS: list[tuple[list[dict[str, Any]], list[dict[str, Any]], bool]] = [
    ([op("replace", "/a", value=1)], [op("replace", "/a", value=2)], True),
    ([op("replace", "/a", value=1)], [op("replace", "/b", value=2)], False),
    ([op("replace", "/a", value=1)], [op("replace", "/ab", value=2)], False),
    ([op("replace", "/a", value=1)], [op("replace", "/a/b", value=2)], True),
    ([op("test", "/a", value=1)], [op("test", "/a", value=1)], False),
    ([op("test", "/a/b", value=1)], [op("replace", "/a", value=1)], True),
    ([op("test", "/a", value=1)], [op("replace", "/a/b", value=1)], True),
    ([op("add", "/a/-", value=1)], [op("add", "/a/-", value=2)], False),
    ([op("add", "/a/-", value=1)], [op("add", "/a/0/-", value=2)], False),
    ([op("add", "/a/-", value=1)], [op("replace", "/a", value=[])], True),
    ([op("add", "/a/-", value=1)], [op("test", "/a", value=[])], True),
    ([op("add", "", value=1)], [op("add", "/a/-", value=2)], True),
    ([op("add", "/a/1", value=1)], [op("replace", "/a/0", value=2)], False),
    ([op("add", "/a/1", value=1)], [op("replace", "/a/2", value=2)], True),
    ([op("remove", "/a/1")], [op("test", "/a/2/x", value=2)], True),
    ([op("remove", "/a/1")], [op("test", "/b/2", value=2)], False),
    ([op("copy", "/b", **{"from": "/a"})], [op("copy", "/c", **{"from": "/a"})], False),
    ([op("move", "/b", **{"from": "/a"})], [op("copy", "/c", **{"from": "/a"})], True),
    ([], [op("add", "", value=1)], False),
]


@pytest.mark.parametrize(("one", "other", "expected"), CONFLICTS)
def test_changes_conflict_when_one_writes_what_the_other_touches(
    one: list[dict[str, Any]], other: list[dict[str, Any]], expected: bool
) -> None:
    mine, theirs = touched(patch_of(*one)), touched(patch_of(*other))

    assert expected == (conflicts(mine, theirs) is not None)
    assert expected == (conflicts(theirs, mine) is not None)


def test_the_first_conflicting_pair_is_named() -> None:
    mine = touched(patch_of(op("test", "/a", value=1), op("replace", "/b", value=1), op("replace", "/c", value=1)))
    theirs = touched(FileChange.model_validate({"remove": True}))

    assert (Touch(("a",), False), Touch((), True)) == conflicts(mine, theirs)


@settings(max_examples=250)
@given(VALUES, st.data())
def test_changes_that_do_not_conflict_give_the_same_value_in_either_order(document: Any, data: st.DataObject) -> None:
    one, other = data.draw(patches(document)), data.draw(patches(document))
    if conflicts(touched(patch_of(*one)), touched(patch_of(*other))):
        return
    try:
        alone = [reference_patch(document, operations) for operations in (one, other)]
    except Refused:
        return
    if any("-" in place for value in alone for place in places(value)):
        return  # in an object "-" is a name like any other, which a pointer does not show

    results = [reference_patch(document, operations) for operations in ([*one, *other], [*other, *one])]

    assert bag(results[0]) == bag(results[1])


def bag(value: Any) -> str:
    """A spelling without the order of array items: what two changes append may come in either order."""
    if isinstance(value, dict):
        return repr(sorted((key, bag(child)) for key, child in value.items()))
    return repr(sorted(map(bag, value))) if isinstance(value, list) else repr(value)


# --- making a patch


@settings(max_examples=250)
@given(VALUES, VALUES, INDENTS)
@example([1, 2, 3], [1, 3], None)
@example([1, 3], [1, 2, 3], None)
@example({"a": 1}, {"a": 1.0}, None)
@example({"a": True}, {"a": 1}, None)
@example([[1], [2]], [[1], [2], [3]], 2)
def test_a_made_patch_makes_the_new_value_of_the_old(old: Any, new: Any, indent: Any) -> None:
    operations = make_patch(old, new)
    change = FileChange(patch=operations)
    written = [operation.model_dump(by_alias=True, exclude_unset=True) for operation in operations]

    assert exact(new) == exact(json.loads(apply_change("f.json", json.dumps(old, indent=indent).encode(), change)))
    assert exact(new) == exact(reference_patch(old, written))
    assert (exact(old) == exact(new)) == (operations == [])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1}, {"a": None}, [op("test", "/a", value=1), op("replace", "/a", value=None)]),
        ({"a": None}, {}, [op("test", "/a", value=None), op("remove", "/a")]),
        ({"a": [1]}, {}, [op("remove", "/a")]),
        ({}, {"a/b": {"c": 1}}, [op("add", "/a~1b", value={"c": 1})]),
        ([1], [1, 2, 3], [op("add", "/-", value=2), op("add", "/-", value=3)]),
        ([1, 4], [1, 2, 3, 4], [op("add", "/1", value=2), op("add", "/2", value=3)]),
        ([1, 2, 3, 4], [1, 4], [op("test", "/2", value=3), op("remove", "/2"),
                                op("test", "/1", value=2), op("remove", "/1")]),
        ([{"a": 1}, 2], [{"a": 3}, 2], [op("test", "/0/a", value=1), op("replace", "/0/a", value=3)]),
        (1, {"a": 1}, [op("test", "", value=1), op("replace", "", value={"a": 1})]),
        ({"a": {"b": 1}}, {"a": [1]}, [op("replace", "/a", value=[1])]),
    ],
)  # fmt: skip
def test_a_made_patch_is_small(old: Any, new: Any, expected: list[dict[str, Any]]) -> None:
    assert expected == [o.model_dump(by_alias=True, exclude_unset=True) for o in make_patch(old, new)]
