"""The index: read strictly, and changed without touching what is not changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from overlay.formats.index import Index, IndexEdit, IndexProblem, new_index, parse_index, rewrite

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


# Indexes in every hand


@dataclass
class Hand:
    """How one writer sets out JSON."""

    blank: Callable[[int], str]
    """Blanks in front of a member or a closing bracket, by level."""
    colon: Callable[[], str]
    comma: Callable[[], str]
    quote: Callable[[str], str]

    def write(self, value: Any, level: int = 0) -> str:
        if isinstance(value, dict):
            pieces = [f"{self.quote(key)}{self.colon()}{self.write(item, level + 1)}" for key, item in value.items()]
            return self.enclose("{", pieces, "}", level)
        if isinstance(value, list):
            return self.enclose("[", [self.write(item, level + 1) for item in value], "]", level)
        return self.quote(value) if isinstance(value, str) else json.dumps(value)

    def enclose(self, opening: str, pieces: list[str], closing: str, level: int) -> str:
        if not pieces:
            return opening + closing
        body = "".join(
            f"{self.blank(level + 1)}{piece}{self.comma() if at < len(pieces) - 1 else ''}"
            for at, piece in enumerate(pieces)
        )
        return opening + body + self.blank(level) + closing


@dataclass
class Written:
    """A text and what it says; `before` and `after` are what surrounds the weight map."""

    before: str
    map_text: str
    after: str
    weight_map: dict[str, str]
    metadata: dict[str, Any] | None
    members: list[str] = field(default_factory=list)

    @property
    def raw(self) -> bytes:
        return (self.before + self.map_text + self.after).encode()


def uniform_hand(indent: str | None, colon: str, ascii_only: bool) -> Hand:
    return Hand(
        blank=lambda level: "" if indent is None else "\n" + indent * level,
        colon=lambda: colon,
        comma=lambda: ", " if indent is None and colon == ": " else ",",
        quote=lambda text: json.dumps(text, ensure_ascii=ascii_only),
    )


@st.composite
def hands(draw: st.DrawFn) -> Hand:
    if draw(st.integers(0, 2)):
        indent = draw(st.sampled_from([None, " ", "  ", "    ", "\t"]))
        return uniform_hand(indent, draw(st.sampled_from([":", ": ", " : "])), draw(st.booleans()))

    def odd() -> str:
        return draw(st.sampled_from(["", "", " ", "\n", "\t", "\r\n  "]))

    def quote(text: str) -> str:
        how = draw(st.integers(0, 5))
        if how == 0:
            units = text.encode("utf-16-be")
            return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'
        return json.dumps(text, ensure_ascii=how == 1)

    return Hand(
        blank=lambda level: odd(), colon=lambda: odd() + ":" + odd(), comma=lambda: odd() + "," + odd(), quote=quote
    )


NAMES = st.one_of(
    st.sampled_from(["a.weight", "b.weight", "model.layers.0.mlp.weight", "metadata", "weight_map"]),
    st.text(st.sampled_from('ab.\\"{}[]:, é\u2028\n😀'), max_size=6),
)
SHARDS = st.sampled_from([ONE, TWO, "modèle.safetensors", 'q"}{,:.safetensors', "x.safetensors"])
WEIGHT_MAPS = st.dictionaries(NAMES, SHARDS, max_size=6)
UNKNOWN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.just(2**70), st.just(0.5), st.text(st.sampled_from('a"\\{}[]:,é'), max_size=4)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(st.sampled_from(["weight_map", "total_size", "x", "{", '"']), inner, max_size=2),
    ),
    max_leaves=4,
)
METADATA = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "total_size": st.integers(0, 2**66),
            "weight_map": UNKNOWN,
            "total_parameters": st.integers(0, 9),
            "format": UNKNOWN,
            "}": UNKNOWN,
        },
    ),
)


@st.composite
def written(draw: st.DrawFn, *, empty: bool = True) -> Written:
    hand = draw(hands())
    weight_map = draw(WEIGHT_MAPS if empty else WEIGHT_MAPS.filter(bool))
    metadata = draw(METADATA)
    members: dict[str, Any] = {}
    if metadata is not None or draw(st.booleans()):
        members["metadata"] = metadata
    members["weight_map"] = weight_map
    for key in draw(st.sets(st.sampled_from(["version", "weight_map2", "metadata "]), max_size=1)):
        members[key] = draw(UNKNOWN)
    keys = draw(st.permutations(list(members)))
    texts = [f"{hand.quote(name)}{hand.colon()}{hand.quote(shard)}" for name, shard in weight_map.items()]
    map_text = hand.enclose("{", texts, "}", 1)
    hole = "\0"
    pieces = [
        f"{hand.quote(key)}{hand.colon()}{hole if key == 'weight_map' else hand.write(members[key], 1)}" for key in keys
    ]
    blanks = st.sampled_from(["", "\n", " \n"])
    outside = draw(blanks) + hand.enclose("{", pieces, "}", 0) + draw(blanks)
    before, _, after = outside.partition(hole)
    return Written(before, map_text, after, weight_map, metadata, texts)


@st.composite
def edits_of(draw: st.DrawFn, weight_map: dict[str, str], metadata: bool = True) -> IndexEdit:
    fate = {name: draw(st.sampled_from(["keep", "keep", "remove", "remap"])) for name in weight_map}
    if draw(st.integers(0, 2)) == 0:
        fate = dict.fromkeys(fate, "keep")
    new = draw(st.dictionaries(NAMES.filter(lambda name: name not in weight_map), SHARDS, max_size=3))
    return IndexEdit(
        add=new,
        remove=frozenset(name for name in fate if fate[name] == "remove"),
        remap={name: draw(SHARDS) for name in fate if fate[name] == "remap"},
        metadata=draw(
            st.dictionaries(
                st.sampled_from(["total_size", "total_parameters", 'n"é']), st.integers(0, 2**66), max_size=2
            )
        )
        if metadata
        else {},
    )


def after_edit(weight_map: dict[str, str], edit: IndexEdit) -> dict[str, str]:
    kept = {name: edit.remap.get(name, shard) for name, shard in weight_map.items() if name not in edit.remove}
    return {**kept, **edit.add}


def said(index: Index) -> tuple[list[tuple[str, str]], dict[str, Any] | None]:
    return list(index.weight_map.items()), index.metadata


# Laws of reading


@settings(max_examples=100)
@given(written())
def test_an_index_in_any_hand_is_read(text: Written) -> None:
    index = parse_index(text.raw)

    assert (text.raw, (list(text.weight_map.items()), text.metadata)) == (index.raw, said(index))


def test_shards_come_in_the_order_of_first_mention() -> None:
    index = parse_index(json.dumps({"weight_map": {"a": TWO, "b": ONE, "c": TWO}}).encode())

    assert [TWO, ONE] == index.shards()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("null", None),
        ("{}", None),
        ('{"total_size": 0}', 0),
        ('{"total_size": 439842893136}', 439842893136),
        ('{"total_size": 439842893136.0}', 439842893136),
        ('{"total_size": 1180591620717411303424}', 2**70),
    ],
)
def test_the_stated_total_size_is_a_whole_number_or_none(metadata: str, expected: int | None) -> None:
    actual = parse_index(f'{{"metadata": {metadata}, "weight_map": {{}}}}'.encode()).total_size

    assert (expected, type(expected)) == (actual, type(actual))


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("", "", "expected JSON, found Input is a zero-length, empty document at line 1 column 1"),
        ("[]", "", "expected a JSON object with a weight_map"),
        ("null", "", "expected a JSON object with a weight_map"),
        ("{}", "weight_map", "expected an object of tensor names, found none"),
        ('{"weight_map": null}', "weight_map", "expected an object of tensor names, found None"),
        ('{"weight_map": ["a"]}', "weight_map", "expected an object of tensor names, found ['a']"),
        ('{"weight_map": {"a": 1}}', "a", "expected a shard name, found 1"),
        ('{"weight_map": {"a": ["x"], "b": "y.safetensors"}}', "a", "expected a shard name, found ['x']"),
        ('{"weight_map": {"a": {"b": "y.safetensors"}}}', "a", "expected a shard name, found {'b': 'y.safetensors'}"),
        ('{"weight_map": {"a": "x.bin"}}', "a", "expected a name that ends in .safetensors, found 'x.bin'"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "", "expected each key once, found 'a' twice"),
        ('{"weight_map": {"a" : "x.safetensors", "a": ":"}}', "", "expected each key once, found 'a' twice"),
        ('{"weight_map": {"a": "x.safetensors", "\\u0061": ""}}', "", "expected each key once, found 'a' twice"),
        ('{"weight_map": {}, "weight_map": {}}', "", "expected each key once, found 'weight_map' twice"),
        ('{"metadata": {}, "weight_map": {}, "metadata": {}}', "", "expected each key once, found 'metadata' twice"),
        ('{"metadata": {"x": {"y": 1, "y": 1}}, "weight_map": {}}', "", "expected each key once, found 'y' twice"),
        ('{"metadata": [], "weight_map": {}}', "metadata", "expected an object, found []"),
        ('{"metadata": "x", "weight_map": {}}', "metadata", "expected an object, found 'x'"),
        ('{"weight_map": {}} x', "", "expected JSON, found unexpected content after document at line 1 column 20"),
    ],
)
def test_what_is_no_index_is_refused_with_its_key(text: str, key: str, expected: str) -> None:
    with pytest.raises(IndexProblem) as caught:
        parse_index(text.encode())

    assert [(key, expected)] == caught.value.problems


@pytest.mark.parametrize("key", ["total_size", "total_parameters"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        *(("-1", "-1"), ('"5"', "'5'"), ("true", "True"), ("null", "None"), ("1.5", "1.5"), ("-1.0", "-1.0")),
        *(("[1]", "[1]"), ("{}", "{}"), (f"-{2**70}", str(-(2**70)))),
    ],
)
def test_a_size_that_is_no_whole_number_is_refused_with_its_key(key: str, value: str, found: str) -> None:
    with pytest.raises(IndexProblem) as caught:
        parse_index(f'{{"metadata": {{"{key}": {value}}}, "weight_map": {{"a": "{ONE}"}}}}'.encode())

    assert [(f"metadata.{key}", f"expected a whole number >= 0, found {found}")] == caught.value.problems


@pytest.mark.parametrize("text", ['{"weight_map": {"a": NaN}}', '{"metadata": {"total_size": NaN}, "weight_map": {}}'])
def test_nan_is_refused_anywhere(text: str) -> None:
    with pytest.raises(IndexProblem, match="^expected JSON, found unexpected character"):
        parse_index(text.encode())


@pytest.mark.parametrize(
    "shard", ["", ".", "..", "../x.safetensors", "/x.safetensors", "a/b.safetensors", "a\\b.safetensors"]
)
def test_a_shard_outside_of_the_directory_is_refused(shard: str) -> None:
    with pytest.raises(IndexProblem) as caught:
        parse_index(json.dumps({"weight_map": {"good": ONE, "bad": shard}}).encode())

    assert [("bad", f"expected a bare file name, found {shard!r}, which leaves the checkpoint's directory")] == (
        caught.value.problems
    )


@pytest.mark.parametrize("odd", [7, None, ["x"]])
def test_all_problems_of_the_content_are_collected(odd: object) -> None:
    document = {
        "metadata": {"total_size": "big", "total_parameters": -2},
        "weight_map": {"a": "../a.safetensors", "b": ONE, "c": odd, "d": "../a.safetensors"},
    }

    with pytest.raises(IndexProblem) as caught:
        parse_index(json.dumps(document).encode())

    keys = [key for key, _ in caught.value.problems]
    assert ["metadata.total_size", "metadata.total_parameters", "a", "c", "d"] == keys
    assert all(key in str(caught.value) for key in keys)


@pytest.mark.parametrize("depth", [200, 1000, 1020, 100_000])
@pytest.mark.parametrize("text", ['{"weight_map":{"a":?}}', '{"weight_map":?}', '{"metadata":?,"weight_map":{}}', "?"])
def test_deep_nesting_is_an_index_problem(text: str, depth: int) -> None:
    with pytest.raises(IndexProblem):
        parse_index(text.replace("?", "[" * depth + "]" * depth).encode())


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=30),
        st.tuples(UNKNOWN, UNKNOWN).map(lambda pair: json.dumps({"metadata": pair[0], "weight_map": pair[1]}).encode()),
        st.dictionaries(NAMES, UNKNOWN, max_size=3).map(lambda entries: json.dumps({"weight_map": entries}).encode()),
    )
)
def test_arbitrary_content_gives_an_index_or_an_index_problem(raw: bytes) -> None:
    try:
        index = parse_index(raw)
    except IndexProblem as problem:
        assert problem.problems
    else:
        assert json.loads(raw)["weight_map"] == index.weight_map


# Laws of writing


@settings(max_examples=200)
@given(written())
def test_an_empty_edit_keeps_the_bytes(text: Written) -> None:
    index = parse_index(text.raw)
    same = {key: value for key, value in (text.metadata or {}).items() if type(value) is int}

    assert text.raw == rewrite(index, IndexEdit())
    assert text.raw == rewrite(index, IndexEdit(remap=text.weight_map, metadata=same))


@settings(max_examples=300)
@given(st.data())
def test_a_rewritten_index_says_exactly_what_the_edit_asked_for(data: st.DataObject) -> None:
    text = data.draw(written())
    edit = data.draw(edits_of(text.weight_map))
    expected_metadata = {**(text.metadata or {}), **edit.metadata} if edit.metadata else text.metadata

    index = parse_index(rewrite(parse_index(text.raw), edit))

    assert (list(after_edit(text.weight_map, edit).items()), expected_metadata) == said(index)
    # 2**70 stays a whole number, and unknown metadata keeps its order.
    assert repr(expected_metadata) == repr(index.metadata)


@settings(max_examples=250)
@given(st.data())
def test_text_outside_of_the_weight_map_and_members_not_touched_keep_their_bytes(data: st.DataObject) -> None:
    text = data.draw(written())
    edit = data.draw(edits_of(text.weight_map, metadata=False))
    touched = {*edit.remove, *edit.remap}
    kept = [member for member, name in zip(text.members, text.weight_map, strict=True) if name not in touched]

    result = rewrite(parse_index(text.raw), edit).decode()

    assert (True, True) == (result.startswith(text.before), result.endswith(text.after))
    inside = result[len(text.before) : len(result) - len(text.after)]
    assert ("{", "}") == (inside[0], inside[-1])
    at = 0
    for member in kept:
        at = inside.index(member, at) + len(member)


@settings(max_examples=150)
@given(st.data())
def test_a_remapped_tensor_changes_nothing_but_its_value(data: st.DataObject) -> None:
    text = data.draw(written(empty=False))
    name = data.draw(st.sampled_from(list(text.weight_map)))
    shard = data.draw(SHARDS.filter(lambda shard: shard != text.weight_map[name]))
    at = list(text.weight_map).index(name)
    member = text.members[at]
    start = 0
    for earlier in text.members[:at]:
        start = text.map_text.index(earlier, start) + len(earlier)
    start = text.map_text.index(member, start)

    result = rewrite(parse_index(text.raw), IndexEdit(remap={name: shard})).decode()

    before = text.before + text.map_text[:start]
    after = text.map_text[start + len(member) :] + text.after
    assert (True, True) == (result.startswith(before), result.endswith(after))
    changed = result[len(before) : len(result) - len(after)]
    key_end = next(end for end in range(2, len(member)) if member[end - 1] == '"' and _is_json(member[:end]))
    assert (member[:key_end], {name: shard}) == (changed[:key_end], json.loads("{" + changed + "}"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@settings(max_examples=200)
@given(st.data())
def test_taking_back_what_was_added_gives_the_original_bytes(data: st.DataObject) -> None:
    text = data.draw(written(empty=False))
    old = {
        key: value
        for key, value in (text.metadata or {}).items()
        if key in ("total_size", "total_parameters") and type(value) is int
    }
    edit = data.draw(edits_of(text.weight_map))
    there = IndexEdit(add=edit.add, metadata={key: value for key, value in edit.metadata.items() if key in old})
    back = IndexEdit(remove=edit.add.keys(), metadata=old)

    changed = rewrite(parse_index(text.raw), there)

    assert text.raw == rewrite(parse_index(changed), back)


@settings(max_examples=150)
@given(
    st.sampled_from([None, 1, 2, 4, "\t"]),
    st.booleans(),
    st.dictionaries(NAMES, SHARDS, min_size=2, max_size=5),  # one alone shows no comma
    st.dictionaries(NAMES, SHARDS, max_size=3),
    st.integers(0, 2**64),
)
@example(2, True, {"a": ONE, "b": TWO}, {"c": "modèle.safetensors"}, 10)
def test_in_a_uniform_hand_the_result_is_what_that_writer_would_have_written(
    indent: int | str | None, ascii_only: bool, weight_map: dict[str, str], add: dict[str, str], size: int
) -> None:
    add = {name: shard for name, shard in add.items() if name not in weight_map}
    removed = next(iter(weight_map))

    def dump(size: int, weight_map: dict[str, str]) -> bytes:
        document = {"metadata": {"total_size": size}, "weight_map": weight_map}
        return json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()

    raw = dump(1, weight_map)
    expected = dump(size, {**{name: weight_map[name] for name in list(weight_map)[1:]}, **add})
    # Without a character that shows it, a text in ASCII does not tell whether its writer escapes.
    assume(ascii_only or not raw.isascii() or all(text.isascii() for text in (*add, *add.values())))
    edit = IndexEdit(add=add, remove={removed}, metadata={"total_size": size})

    assert expected == rewrite(parse_index(raw), edit)


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        (
            '{"weight_map":{}}',
            IndexEdit(add={"a": ONE, "b": ONE}, metadata={"total_size": 3}),
            f'{{"metadata": {{"total_size": 3}},"weight_map":{{"a": "{ONE}","b": "{ONE}"}}}}',
        ),
        (
            '{\n  "metadata": {},\n  "weight_map": {}\n}\n',
            IndexEdit(add={"a": ONE, "b": TWO}, metadata={"total_size": 3}),
            '{\n  "metadata": {"total_size": 3},\n'
            f'  "weight_map": {{\n    "a": "{ONE}",\n    "b": "{TWO}"\n  }}\n}}\n',
        ),
        (
            f'{{\n  "weight_map": {{\n    "a": "{ONE}"\n  }}\n}}',
            IndexEdit(remove={"a"}),
            '{\n  "weight_map": {}\n}',
        ),
        (
            f'{{\n  "weight_map": {{\n    "a": "{ONE}"\n  }}\n}}',
            IndexEdit(remove={"a"}, add={"b": TWO, "c": TWO}, metadata={"total_size": 3, "total_parameters": 1}),
            '{\n  "metadata": {\n    "total_size": 3,\n    "total_parameters": 1\n  },\n'
            f'  "weight_map": {{\n    "b": "{TWO}",\n    "c": "{TWO}"\n  }}\n}}',
        ),
        (
            f'{{"metadata": null, "weight_map": {{"a" :"{ONE}" ,\n "b":"{ONE}" , "c":"{ONE}" }} }}',
            IndexEdit(remove={"b"}, remap={"c": TWO}, metadata={"total_size": 3}),
            f'{{"metadata": {{"total_size": 3}}, "weight_map": {{"a" :"{ONE}" ,\n "c":"{TWO}" }} }}',
        ),
        (
            f'{{"metadata":{{"weight_map":5,"total_size":1 , "x":{{"total_size":2}}}},"weight_map":{{"a":"{ONE}"}}}}',
            IndexEdit(metadata={"total_size": 10, "total_parameters": 2}),
            '{"metadata":{"weight_map":5,"total_size":10 , "x":{"total_size":2},"total_parameters": 2},'
            f'"weight_map":{{"a":"{ONE}"}}}}',
        ),
        (
            f'{{"weight_map": {{"a": "{ONE}", "b": "{ONE}"}}, "metadata": {{"total_size": 1}}}}',
            IndexEdit(remap={"a": ONE, "b": TWO}, metadata={"total_size": 1}),
            f'{{"weight_map": {{"a": "{ONE}", "b": "{TWO}"}}, "metadata": {{"total_size": 1}}}}',
        ),
    ],
)
def test_an_edit_gives_this_text(before: str, edit: IndexEdit, after: str) -> None:
    actual = rewrite(parse_index(before.encode()), edit)

    assert after == actual.decode()


@pytest.mark.parametrize(
    "edit",
    [
        IndexEdit(add={"a": TWO}),
        IndexEdit(remove={"z"}),
        IndexEdit(remap={"z": TWO}),
        IndexEdit(remove={"a"}, add={"a": TWO}),
        IndexEdit(remove={"a"}, remap={"a": TWO}),
    ],
)
def test_an_edit_that_does_not_fit_is_a_key_error(edit: IndexEdit) -> None:
    index = parse_index(json.dumps({"weight_map": {"a": ONE}}).encode())

    with pytest.raises(KeyError):
        rewrite(index, edit)


def test_unknown_metadata_keeps_numbers_that_no_double_holds() -> None:
    raw = f'{{"metadata":{{"x":{2**70},"total_size":1,"y":1e2}},"weight_map":{{"a":"{ONE}"}}}}'.encode()

    changed = rewrite(parse_index(raw), IndexEdit(metadata={"total_size": 2}))

    assert raw.replace(b'"total_size":1', b'"total_size":2') == changed
    assert {"x": 2**70, "total_size": 2, "y": 100.0} == parse_index(changed).metadata


@pytest.mark.parametrize("name", ["model.layers.{}.weight", "a{{}}{}b", 'q"\\{}', "é{}"])
def test_many_names_are_read_and_changed(name: str) -> None:
    weight_map = {name.format(n): ONE for n in range(50_000)}
    removed = {name.format(n) for n in range(0, 50_000, 2)}
    add = {name.format(n): TWO for n in range(50_000, 60_000)}
    raw = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2).encode() + b"\n"

    changed = rewrite(parse_index(raw), IndexEdit(add=add, remove=removed, metadata={"total_size": 2}))

    expected = {**{name: ONE for name in weight_map if name not in removed}, **add}
    document = {"metadata": {"total_size": 2}, "weight_map": expected}
    assert json.dumps(document, indent=2).encode() + b"\n" == changed


# New indexes


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_characters="\x7f"), max_size=6),
        SHARDS.filter(str.isascii),
        max_size=5,
    )
)
def test_a_new_index_has_the_bytes_that_transformers_writes(weight_map: dict[str, str]) -> None:
    document = {"metadata": {"total_parameters": 3, "total_size": 12}, "weight_map": weight_map}
    expected = json.dumps(document, indent=2, sort_keys=True) + "\n"

    raw = new_index(weight_map, {"total_parameters": 3, "total_size": 12})

    assert expected.encode() == raw


@settings(max_examples=100)
@given(WEIGHT_MAPS, st.integers(0, 2**66))
def test_a_new_index_reads_back(weight_map: dict[str, str], size: int) -> None:
    index = parse_index(new_index(weight_map, {"total_size": size}))

    assert (sorted(weight_map.items()), {"total_size": size}) == said(index)
