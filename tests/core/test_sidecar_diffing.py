"""Differences of sidecars: what is called out, what is accounted for, and that no bytes make it fail."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.core.details import ABSENT, MAX_DETAILS, MAX_SHOWN, cut_pair
from overlay.core.sidecar_diffing import (
    Detail,
    Role,
    SidecarChange,
    added_file,
    diff_sidecar,
    removed_file,
    role_of,
)
from overlay.core.value_diffing import ValueChange, differences, read_json
from overlay.formats import strict_json
from overlay.formats.front_matter import read_front_matter
from overlay.formats.strict_json import JsonProblem
from tests.formats.test_strict_json import TEXTS
from tests.support.json_model import json_values

NAMES = st.sampled_from(
    [
        *("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "added_tokens.json", "README.md"),
        *("LICENSE", "chat_template.jinja", "tokenizer.model", "merges.txt", "modeling_x.py", "chat_template.json"),
    ]
)


def text(value: Any, **style: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, **(style or {"indent": 2})).encode()


def changed(name: str, old: Any, new: Any) -> SidecarChange:
    """The change between two values, or two texts, that differ."""
    sides = (side if isinstance(side, bytes) else text(side) for side in (old, new))
    change = diff_sidecar(name, *sides)
    assert change is not None
    assert change.kind == "changed"
    return change


# --- roles


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("config.json", Role.CONFIG),
        ("params.json", Role.CONFIG),
        ("hf_quant_config.json", Role.QUANTIZATION),
        ("base_hf_quant_config.json", Role.QUANTIZATION),
        ("quantize_config.json", Role.QUANTIZATION),
        ("tokenizer.json", Role.TOKENIZER),
        ("tokenizer.model", Role.TOKENIZER),
        ("special_tokens_map.json", Role.TOKENIZER),
        ("qwen.tiktoken", Role.TOKENIZER),
        ("chat_template.jinja", Role.TEMPLATE),
        ("chat_template.json", Role.TEMPLATE),
        ("additional_chat_templates/tool_use.jinja", Role.TEMPLATE),
        ("additional_chat_templates/notes.txt", Role.TEMPLATE),
        ("generation_config.json", Role.GENERATION),
        ("preprocessor_config.json", Role.PROCESSOR),
        ("video_preprocessor_config.json", Role.PROCESSOR),
        ("LICENSE", Role.LICENCE),
        ("LICENCE.txt", Role.LICENCE),
        ("MODEL_LICENSE.md", Role.LICENCE),
        ("NOTICE", Role.LICENCE),
        ("USAGE_POLICY", Role.LICENCE),
        ("USE_POLICY.md", Role.LICENCE),
        ("README.md", Role.CARD),
        ("modeling_x.py", Role.CODE),
        ("MODELING_X.PY", Role.CODE),
        ("libkernel.so.1", Role.CODE),
        ("custom_generate/config.json", Role.CODE),
        ("custom_generate", Role.CODE),
        ("tokenizer.py", Role.CODE),
        ("extra.bin", Role.PICKLE),
        ("adapter_model.bin", Role.PICKLE),
        ("adapter_model.safetensors", Role.ADAPTER),
        ("adapter_config.json", Role.ADAPTER),
        ("model.safetensors.index.json", Role.INDEX),
        ("benchmark.json", Role.OTHER),
        ("unlicensed_thoughts.txt", Role.OTHER),
        ("notes", Role.OTHER),
    ],
)
def test_a_name_tells_the_role(name: str, role: Role) -> None:
    assert role_of(name) is role


# --- files that came and went


def test_files_that_came_and_went() -> None:
    assert diff_sidecar("a.json", None, b"{}") == SidecarChange("a.json", "added", Role.OTHER, "2 bytes")
    assert diff_sidecar("a.json", b"{", None) == SidecarChange("a.json", "removed", Role.OTHER, "1 byte")
    assert added_file("x.bin", 5) == SidecarChange("x.bin", "added", Role.PICKLE, "5 bytes")
    assert removed_file("x.bin", 5).kind == "removed"
    assert diff_sidecar("a.json", None, None) is None
    empty = diff_sidecar("a.txt", None, b"")
    assert empty is not None
    assert empty.kind == "added"


# --- JSON


def test_values_are_named_by_pointer() -> None:
    old = {"rope_theta": 10000, "quantization_config": {"ignore": ["lm_head"]}, "gone": None}
    new = {"rope_theta": 5e6, "quantization_config": {"ignore": ["lm_head", "model.layers.78*"]}, "a/b": {"c": 1}}
    change = changed("config.json", old, new)
    assert change.role is Role.CONFIG
    assert change.details == (
        Detail("/quantization_config/ignore", None, '"model.layers.78*"'),
        Detail("/rope_theta", "10000", "5000000.0"),
        Detail("/gone", "null", None),
        Detail("/a~1b", None, '{"c": 1}'),
    )
    assert change.summary == "4 values changed: /quantization_config/ignore, /rope_theta, /gone, /a~1b"


def test_what_matters_comes_before_what_does_not() -> None:
    old = {f"key{n}": n for n in range(80)} | {"nested": {"auto_map": "a.A"}}
    new = {f"key{n}": n + 1 for n in range(80)} | {"nested": {"auto_map": "b.B"}}
    change = changed("config.json", old, new)
    assert change.details[0] == Detail("/nested/auto_map", '"a.A"', '"b.B"')
    assert len(change.details) == MAX_DETAILS
    assert change.omitted == 81 - MAX_DETAILS
    assert change.summary.startswith("81 values changed: /nested/auto_map, /key0,")
    assert change.summary.endswith("and 76 more")


def test_members_of_a_set_and_items_of_a_sequence() -> None:
    def found(old: Any, new: Any) -> list[tuple[Any, ...]]:
        return [(list(c.tokens), c.old, c.new) for c in differences(old, new)]

    assert found([1, 2, 3], [3, 4, 1]) == [
        ([], 2, ABSENT),
        ([], ABSENT, 4),
        ([], [1, 2, 3], [3, 4, 1]),
    ]
    assert found([[1], [2]], [[0], [1], [2]]) == [(["0"], ABSENT, [0])]
    layers = ["full", "full", "window"]
    assert found(layers, ["full", "window", "window"]) == [(["1"], "full", "window")]
    assert found([1], {"0": 1}) == [([], [1], {"0": 1})]


def test_one_and_true_and_one_point_nothing_are_three_values() -> None:
    for old, new in ((1, 1.0), (1, True), (0.0, -0.0), (0, False), ([1], [True]), (2**64, 2.0**64)):
        assert list(differences(old, new)) != [], (old, new)


def test_a_file_that_was_only_set_out_anew_is_called_that() -> None:
    value = {"b": [1, {"c": "é"}], "a": 0.5}
    old, new = text(value, indent=4), json.dumps({"a": 0.5, "b": [1, {"c": "é"}]}).encode()
    change = changed("config.json", old, new)
    assert change.summary == "same values, other text"
    assert change.same_values
    assert change.document()["same_values"] is True
    assert not changed("config.json", value, {**value, "a": 0.25}).same_values


@pytest.mark.parametrize(
    "broken",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": 1e400}',
        b"\xff\xfe",
        b"",
        b'{"a": ',
        b"[" * 100_000,
        b"[" * 200 + b"]" * 200,
        b'"\\ud800"',
        b"\x80\x04\x8c\x05posix",
    ],
)
def test_what_is_no_json_is_compared_as_what_it_is(broken: bytes) -> None:
    for name in ("config.json", "tokenizer.json", "vocab.json"):
        summary = changed(name, b'{"a": 1}', broken).summary
        assert "the new one is not valid JSON" in summary
        assert "differ" in summary
        assert "the old one is not valid JSON" in changed(name, broken, b'{"a": 1}').summary
        assert "neither is valid JSON" in changed(name, broken, broken + b" ").summary


def test_huge_integers_are_not_rounded() -> None:
    change = changed("config.json", b'{"a": 18446744073709551617}', b'{"a": 18446744073709551618}')
    assert change.details == (Detail("/a", "18446744073709551617", "18446744073709551618"),)
    long = changed("config.json", b'{"a": 1}', b'{"a": ' + b"9" * 6000 + b"}")
    assert "differ" in long.summary or "/a" in long.summary


def test_long_values_are_cut_around_their_first_difference() -> None:
    old, new = "x" * 5000 + "left" + "y" * 5000, "x" * 5000 + "right" + "y" * 5000
    (detail,) = changed("config.json", {"a": old}, {"a": new}).details
    assert detail.old is not None
    assert detail.new is not None
    assert max(len(detail.old), len(detail.new)) <= MAX_SHOWN
    assert "xxleft" in detail.old
    assert "xxright" in detail.new


@given(st.text("ab", max_size=400), st.text("ab", max_size=400))
def test_two_texts_that_differ_are_cut_so_that_it_shows(old: str, new: str) -> None:
    shown = cut_pair(old, new)
    assert (old == new) == (shown[0] == shown[1])
    assert all(len(side) <= MAX_SHOWN for side in shown)


def rebuilt(old: Any, changes: list[ValueChange]) -> Any:
    """`old` with `changes` made in it."""
    document = [copy.deepcopy(old)]  # so that the whole document has a parent
    removals = [change for change in changes if change.new is ABSENT and not change.member]
    for change in [change for change in changes if change not in removals] + removals[::-1]:
        parent: Any = document
        path = ["0", *change.tokens]
        for token in path[:-1]:
            parent = parent[int(token) if isinstance(parent, list) else token]
        last: Any = int(path[-1]) if isinstance(parent, list) else path[-1]
        if change.member:
            members = parent[last]
            if change.new is ABSENT:
                del members[[strict_json.canonical(m) for m in members].index(strict_json.canonical(change.old))]
            else:
                members.append(change.new)
        elif change.new is ABSENT:
            del parent[last]
        elif change.old is ABSENT and isinstance(parent, list):
            parent.insert(last, change.new)
        else:
            parent[last] = change.new
    return document[0]


def with_sets_sorted(value: Any, sets: set[tuple[str, ...]], at: tuple[str, ...] = ()) -> Any:
    if isinstance(value, dict):
        return {key: with_sets_sorted(entry, sets, (*at, key)) for key, entry in value.items()}
    if isinstance(value, list) and at in sets:
        return sorted(value, key=strict_json.canonical)
    if isinstance(value, list):
        return [with_sets_sorted(entry, sets, (*at, str(i))) for i, entry in enumerate(value)]
    return value


@given(json_values, json_values)
@example([1, 2], [2, 1])
@example([[1], [2], [3]], [[3]])
@example({"a": [1, 1]}, {"a": [1]})
@settings(max_examples=300)
def test_the_changes_account_for_every_difference(old: Any, new: Any) -> None:
    changes = list(differences(old, new))
    assert (changes == []) == (strict_json.canonical(old) == strict_json.canonical(new))
    sets = {change.tokens for change in changes if change.member}
    ours, theirs = with_sets_sorted(rebuilt(old, changes), sets), with_sets_sorted(new, sets)
    assert strict_json.canonical(ours) == strict_json.canonical(theirs)


@given(json_values, json_values)
def test_a_change_of_json_counts_what_it_leaves_out(old: Any, new: Any) -> None:
    change = diff_sidecar("other.json", text(old), text(new))
    if change is not None:
        assert len(change.details) + change.omitted == len(list(differences(old, new)))


@given(TEXTS | st.sampled_from(['{"a:": {":": "\\":"}}', '{"a": 0.5, "b": 18446744073709551616}', '{":": 1, ":": 2}']))
@settings(max_examples=500)
def test_the_fast_reading_is_the_strict_one(document: str) -> None:
    def outcome(read: Any) -> str:
        try:
            return repr(read(document.encode()))
        except JsonProblem:
            return "refused"

    assert outcome(read_json) == outcome(strict_json.decode)


@pytest.mark.parametrize("levels", [strict_json.MAX_DEPTH, strict_json.MAX_DEPTH + 1])
def test_the_fast_reading_knows_the_same_depth(levels: int) -> None:
    document = b'{"a":' * (levels - 1) + b"[]" + b"}" * (levels - 1)
    if levels <= strict_json.MAX_DEPTH:
        assert read_json(document) == strict_json.decode(document)
    else:
        with pytest.raises(JsonProblem, match="nested levels"):
            read_json(document)


# --- tokenizers


def tokenizer(**model: Any) -> dict[str, Any]:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], **model}
    return {"version": "1.0", "added_tokens": [{"id": 7, "content": "<|end|>", "special": True}], "model": model}


def test_tokens_and_merges_are_counted() -> None:
    new = tokenizer(vocab={"a": 1, "b": 0, "c": 3, "d": 4}, merges=["b a", "a b", "c d"])
    change = changed("tokenizer.json", tokenizer(), new)
    assert change.summary == "vocabulary: 2 tokens added, 1 removed, 2 renumbered; 2 merges added"
    assert Detail("vocab", None, '"c": 3') in change.details
    assert Detail("vocab", '"ab": 2', None) in change.details
    assert Detail("vocab", '"a": 0', '"a": 1') in change.details
    assert Detail("merges", None, "c d") in change.details
    assert (len(change.details), change.omitted) == (7, 0)


def test_merges_in_another_order_are_another_tokenizer() -> None:
    old, new = (tokenizer(merges=merges) for merges in (["a b", "b a", "c d"], ["b a", "a b", "c d"]))
    change = changed("tokenizer.json", old, new)
    assert change.summary == "merges in another order"
    assert change.details == (Detail("merges", "a b", "b a"),)
    assert changed("tokenizer.json", tokenizer(), tokenizer(merges=["a b", "a b"])).summary == "1 merge added"


def test_merges_as_pairs_are_the_same_merges() -> None:
    change = changed("tokenizer.json", tokenizer(merges=["a b", "b a"]), tokenizer(merges=[["a", "b"], ["b", "a"]]))
    assert change.same_values
    differing = changed("tokenizer.json", tokenizer(merges=["a b"]), tokenizer(merges=[["a", "c"]]))
    assert differing.summary == "1 merge added, 1 removed"


def test_added_tokens_and_the_rest_of_a_tokenizer() -> None:
    old, new = tokenizer(), tokenizer()
    new["added_tokens"] = [{"id": 7, "content": "<|end|>", "special": False}, {"id": 8, "content": "<|x|>"}]
    new["post_processor"] = {"type": "TemplateProcessing"}
    new["model"]["byte_fallback"] = True
    change = changed("tokenizer.json", old, new)
    assert change.summary == (
        "added tokens: 1 token added, 1 changed; 2 values changed: /model/byte_fallback, /post_processor"
    )
    assert change.details[0].where == "added_tokens"


def test_a_unigram_vocabulary_is_a_list() -> None:
    old = tokenizer(vocab=[["<unk>", 0.0], ["a", -1.5], ["b", -2.0]])
    new = tokenizer(vocab=[["<unk>", 0.0], ["a", -1.25], ["c", -2.0]])
    assert changed("tokenizer.json", old, new).summary == "vocabulary: 1 token added, 1 removed, 1 renumbered"


@pytest.mark.parametrize("model", [{"vocab": {"a": {}}}, {"vocab": [["a"]]}, {"merges": [["a", 1]]}, {"merges": {}}])
def test_a_tokenizer_of_another_shape_is_compared_as_json(model: dict[str, Any]) -> None:
    change = changed("tokenizer.json", tokenizer(), tokenizer(**model))
    (key,) = model
    assert f"/model/{key}" in change.summary
    same = changed("tokenizer.json", tokenizer(**model), text(tokenizer(**model), indent=1))
    assert same.same_values


@pytest.mark.parametrize("document", [[], 1, {"model": []}, {"added_tokens": [1]}, {"model": {"merges": 1}}])
def test_no_tokenizer_at_all(document: Any) -> None:
    assert not changed("tokenizer.json", tokenizer(), document).same_values


def test_a_vocabulary_file() -> None:
    change = changed("vocab.json", {"a": 0, "b": 1}, {"a": 0, "b": 2, "c": 1})
    assert change.summary == "vocabulary: 1 token added, 1 renumbered"
    assert "/b" in changed("vocab.json", {"b": [1]}, {"b": [2]}).summary


def test_many_tokens_are_counted_and_few_are_shown() -> None:
    old = tokenizer(vocab={f"t{n}": n for n in range(1000)})
    change = changed("tokenizer.json", old, tokenizer(vocab={f"t{n}": n + 1 for n in range(1000)}))
    assert change.summary == "vocabulary: 1000 tokens renumbered"
    assert (len(change.details), change.omitted) == (MAX_DETAILS, 1000 - MAX_DETAILS)


_TOKENS = st.dictionaries(st.text("ab:", max_size=3), st.integers(0, 5), max_size=5)
_MERGES = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=5)


@given(st.tuples(_TOKENS, _MERGES), st.tuples(_TOKENS, _MERGES), st.booleans())
def test_tokenizers_are_the_same_when_tokens_and_merges_are(old: Any, new: Any, pairs: bool) -> None:
    ours = tokenizer(vocab=old[0], merges=[" ".join(merge) for merge in old[1]])
    theirs = tokenizer(vocab=new[0], merges=list(map(list, new[1])) if pairs else [" ".join(m) for m in new[1]])
    change = diff_sidecar("tokenizer.json", text(ours), text(theirs))
    assert (old == new) == (change is None or change.same_values)
    if change is not None and not change.same_values:
        assert change.details
        assert change.summary


# --- templates and other texts


def test_a_template_is_counted_by_lines() -> None:
    change = changed("chat_template.jinja", b"a\nb\nc\n", b"a\nB\nc\nd\ne\n")
    assert change.role is Role.TEMPLATE
    assert change.summary == "template differs: 3 lines added, 1 removed"
    assert change.details == (Detail("line 2", "b", "B"), Detail("line 4", None, "d"), Detail("line 5", None, "e"))
    gone = changed("chat_template.jinja", b"a\nb\nc\n", b"a\nc\n")
    assert gone.details == (Detail("line 2", "b", None),)


def test_a_template_inside_of_a_config_is_called_out() -> None:
    old, new = {"chat_template": "a\nb", "eos_token": "x"}, {"chat_template": "a\nb\nc", "eos_token": "y"}
    for name in ("tokenizer_config.json", "processor_config.json"):
        change = changed(name, old, new)
        assert change.summary == "chat template differs: 1 line added; 1 value changed: /eos_token"
        assert change.details[0] == Detail("/chat_template", '"a\\nb"', '"a\\nb\\nc"')
    assert changed("tokenizer_config.json", {}, {"chat_template": "x"}).summary == "chat template added"
    assert changed("chat_template.json", {"chat_template": "x"}, {}).summary == "chat template removed"
    named = [{"name": "default", "template": "x"}]
    assert changed("tokenizer_config.json", {"chat_template": "x"}, {"chat_template": named}).summary == (
        "chat template differs"
    )


def test_line_ends_are_told_from_lines() -> None:
    assert changed("chat_template.jinja", b"a\nb\n", b"a\r\nb\r\n").summary == "template: same lines, other line ends"
    assert changed("chat_template.jinja", b"a\nb\n", b"a\nb").summary == "template: same lines, other line ends"
    assert changed("notes.txt", b"a\x0bb", "a\u2028b".encode()).summary == "text differs: 1 line added, 1 removed"


def test_bytes_that_are_no_text() -> None:
    change = changed("tokenizer.model", b"\xff\x00\x01", b"\xff\x00\x02\x03")
    assert change.summary == "not UTF-8; bytes differ from byte 2 on: 3 and 4 bytes"
    assert change.details == (Detail("byte 2", "01", "02 03"),)


def test_a_text_of_many_lines() -> None:
    lines = [f"token{n}" for n in range(5000)]
    backwards = "\n".join(lines[::-1]).encode()
    old = "\n".join(lines).encode()
    assert changed("vocab.txt", old, backwards).summary == "text differs: same lines in another order"
    shifted = "\n".join(["new", *lines[1:-1][::-1], "last"]).encode()
    change = changed("vocab.txt", old, shifted)
    assert change.summary == "text differs: 2 lines added, 2 removed"
    assert Detail("line 1", None, "new") in change.details
    assert Detail("line 5000", "token4999", None) in change.details
    assert change.omitted == 0


def test_a_text_too_large_for_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.core.text_diffing.MAX_TEXT_BYTES", 10)
    assert changed("notes.txt", b"a" * 11, b"a" * 10 + b"b").summary == (
        "too large to be compared by lines; bytes differ from byte 10 on: 11 bytes"
    )


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_every_line_that_only_one_side_has_is_counted(old: list[str], new: list[str]) -> None:
    change = diff_sidecar("notes.txt", "\n".join([*old, "end"]).encode(), "\n".join([*new, "end"]).encode())
    if old == new:
        assert change is None
        return
    assert change is not None
    added = sum(detail.new is not None for detail in change.details)
    removed = sum(detail.old is not None for detail in change.details)
    assert len(old) - removed == len(new) - added >= 0
    for detail in change.details:
        number = int(detail.where.removeprefix("line "))
        assert detail.new is None or [*new, "end"][number - 1] == detail.new
        assert detail.new is not None or [*old, "end"][number - 1] == detail.old


# --- cards and licences


def test_a_card_tells_licence_and_lineage() -> None:
    old = b"---\nlicense: mit\nbase_model: org/base\ndate: 2026-11-21\nlanguage:\n- no\n---\n# Card\n"
    new = b"---\nlicense: other\nlicense_name: some-licence\nbase_model:\n- org/a\n- org/b\n---\n# Card\n"
    change = changed("README.md", old, new)
    assert change.role is Role.CARD
    assert change.details == (
        Detail("license", "mit", "other"),
        Detail("license_name", None, "some-licence"),
        Detail("base_model", "org/base", "org/a, org/b"),
    )
    assert change.summary.startswith("license: mit → other; license_name added: some-licence; base_model: ")
    assert "text differs" in change.summary


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (b"", {}),
        (b"# no front matter\nlicense: mit\n", {}),
        (b"---\nlicense: mit\n", {}),
        (b"---\nlicense: mit\n---\n", {"license": "mit"}),
        (b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        (b'---\n"license": "mit" # why\n---\n', {"license": "mit"}),
        (b"---\n{license: mit}\n---\n", {"license": "mit"}),
        (b"---\nlicense: &x mit\ntags: [*x]\n---\n", {"license": "mit"}),
        (b"---\nlicense: [a, b]\n---\n", {"license": "a, b"}),
        (b"---\nlicense: mit\nlicense: gpl\n---\n", {"license": "mit | gpl"}),
        (b"---\nlicense: ]broken[\n---\n", {"license": "]broken["}),
        (b"---\nmodel:\n  license: mit\n---\n", {}),
        (b"---\nlicense: \xff\n---\n", {"license": "\ufffd"}),
        (b'---\nlicense: "\\UFFFFFFFF"\n---\n', {"license": '"\\UFFFFFFFF"'}),
        (b"---\nlicense:\n---\n", {"license": "null"}),
    ],
)
def test_front_matter_is_read_whatever_surrounds_it(card: bytes, expected: dict[str, str]) -> None:
    assert read_front_matter(card) == expected


def test_the_text_of_a_licence() -> None:
    change = changed("LICENSE", b"MIT License\n\nfree\n", b"Apache License\n\nfree\n")
    assert change.role is Role.LICENCE
    assert change.summary == "licence text differs: 1 line added, 1 removed"


# --- whatever the bytes


def test_text_of_strangers_stays_as_it_is() -> None:
    hostile = "\x1b[31m<script>\u202e{{7*7}}"
    change = changed("chat_template.jinja", b"a", hostile.encode())
    assert change.details == (Detail("line 1", "a", hostile),)
    key = changed("config.json", {}, {f"{hostile}\n": 1})
    assert hostile in key.details[0].where
    assert len(key.summary.splitlines()) == 1


def test_a_change_is_a_json_document() -> None:
    document = changed("config.json", {"a": 1}, {"a": 2}).document()
    assert document == {
        "name": "config.json",
        "kind": "changed",
        "role": "config",
        "summary": "1 value changed: /a",
        "details": [{"where": "/a", "old": "1", "new": "2"}],
        "omitted": 0,
        "same_values": False,
    }
    assert json.loads(strict_json.encode(document)) == document


ODD_BYTES = st.one_of(
    st.binary(max_size=60),
    TEXTS.map(str.encode),
    json_values.map(text),
    st.text(max_size=30).map(lambda string: string.encode(errors="replace")),
    st.text('-:\n license"&*![]{}', max_size=40).map(lambda string: b"---\n" + string.encode() + b"\n---\n"),
    st.builds(lambda vocab, merges: text(tokenizer(vocab=vocab, merges=merges)), json_values, json_values),
)


@given(NAMES, st.none() | ODD_BYTES, st.none() | ODD_BYTES)
@settings(max_examples=400)
def test_no_bytes_make_it_fail(name: str, old: bytes | None, new: bytes | None) -> None:
    change = diff_sidecar(name, old, new)
    assert (change is None) == (old == new)
    if change is not None:
        assert change.summary
        assert len(change.summary.splitlines()) == 1
        assert len(change.details) <= MAX_DETAILS
        assert change.omitted >= 0
        strict_json.encode(change.document())
