"""Names: what may be read from a foreign index, what may be written, and what comes next."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.formats.names import (
    SHARD_SUFFIX,
    explain_shard_name,
    explain_target_name,
    find_case_collisions,
    find_split,
    next_shard_name,
    split_names,
)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model-00001-of-00046.safetensors",
        "modèle α.safetensors",
        "-x.safetensors",
        ".safetensors",
        "..a.safetensors",
        "a:b.safetensors",
        "x" * 243 + SHARD_SUFFIX,
    ],
)
def test_a_bare_basename_is_a_shard_name(name: str) -> None:
    actual = explain_shard_name(name)

    assert "" == actual


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "expected a shard name, found None"),
        (3, "expected a shard name, found 3"),
        (True, "expected a shard name, found True"),
        (["a.safetensors"], "expected a shard name, found ['a.safetensors']"),
        ({}, "expected a shard name, found {}"),
        ("", "expected a bare file name, found '', which leaves the checkpoint's directory"),
        (".", "expected a bare file name, found '.', which leaves the checkpoint's directory"),
        ("..", "expected a bare file name, found '..', which leaves the checkpoint's directory"),
        ("../a.safetensors", "which leaves the checkpoint's directory"),
        ("/a.safetensors", "which leaves the checkpoint's directory"),
        ("a/b.safetensors", "which leaves the checkpoint's directory"),
        ("a\\b.safetensors", "which leaves the checkpoint's directory"),
        ("a\0.safetensors", "expected a printable file name"),
        ("a\n.safetensors", "expected a printable file name"),
        ("\x7f.safetensors", "expected a printable file name"),
        ("\udcff.safetensors", "expected a printable file name"),
        ("x" * 244 + SHARD_SUFFIX, "expected at most 255 bytes of file name, found 256"),
        ("é" * 122 + SHARD_SUFFIX, "expected at most 255 bytes of file name, found 256"),
        ("model.bin", "expected a name that ends in .safetensors, found 'model.bin'"),
        ("model.SAFETENSORS", "expected a name that ends in .safetensors"),
        ("safetensors", "expected a name that ends in .safetensors"),
    ],
)
def test_what_is_no_shard_name_is_explained(name: object, expected: str) -> None:
    actual = explain_shard_name(name)

    assert expected in actual


def test_a_deeply_nested_value_is_explained_too() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]

    assert explain_shard_name(nested).startswith("expected a shard name, found [[[")


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=6), st.text(max_size=6).map(lambda stem: stem + SHARD_SUFFIX)))
@example("/.safetensors")
def test_an_accepted_shard_name_stays_in_its_directory(name: str) -> None:
    accepted = not explain_shard_name(name)

    assert accepted == (name.endswith(SHARD_SUFFIX) and not re.search(r"[\x00-\x1f\x7f/\\]", name))


@pytest.mark.parametrize(
    "name", ["a", "config.json", "_a/b-c/d+e/f.txt", "model-00046-of-00046.safetensors", "0", "x" * 255]
)
def test_a_portable_relative_path_may_be_written(name: str) -> None:
    actual = explain_target_name(name)

    assert "" == actual


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../b", "./a", ".overlay", ".git/config", "-a"),
        *("a b", "a\\b", "a:b", "a*", "é", "a\0", "a\n", "~", "$HOME", "a/b/c/d/e", "x" * 256, "\udcff", "١"),
    ],
)
def test_any_other_path_may_not_be_written(name: str) -> None:
    actual = explain_target_name(name)

    assert actual.startswith("expected ")


@settings(max_examples=300)
@given(st.lists(st.text("ab._-/. \\é", max_size=4), max_size=5).map("/".join))
def test_a_writable_path_has_plain_segments_only(name: str) -> None:
    accepted = not explain_target_name(name)

    parts = name.split("/")
    assert accepted == (len(parts) <= 4 and all(re.fullmatch(r"[ab_][ab._-]*", part) for part in parts))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["a", "b"], []),
        (["a", "a"], []),
        (["config.json", "Config.json"], [("Config.json", "config.json")]),
        (["b", "A", "a", "B", "c"], [("A", "a"), ("B", "b")]),
        (["aa", "aA", "AA"], [("AA", "aA"), ("AA", "aa")]),
        (["straße", "STRASSE"], [("STRASSE", "straße")]),
    ],
)
def test_names_that_differ_in_case_only_are_paired(names: list[str], expected: list[tuple[str, str]]) -> None:
    actual = find_case_collisions(names)

    assert expected == actual


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([], "model-00001-of-00001.safetensors"),
        (["model.safetensors"], "model-00002-of-00002.safetensors"),
        ([f"model-{n:05d}-of-00045.safetensors" for n in range(1, 46)], "model-00046-of-00046.safetensors"),
        (["model-00003-of-00045.safetensors"], "model-00046-of-00046.safetensors"),
        (["model-00046-of-00046.safetensors", "model-00001-of-00045.safetensors"], "model-00047-of-00047.safetensors"),
        (["consolidated-00001-of-00002.safetensors"], "consolidated-00003-of-00003.safetensors"),
        (["00001-of-00002.safetensors"], "model-00003-of-00003.safetensors"),
        (["extra.safetensors", "tokenizer.json"], "model-00001-of-00001.safetensors"),
        (["model-99999-of-99999.safetensors"], "model-100000-of-100000.safetensors"),
    ],
)
def test_the_next_shard_follows_the_highest_number(existing: list[str], expected: str) -> None:
    actual = next_shard_name(existing)

    assert expected == actual


@settings(max_examples=50)
@given(st.integers(1, 300))
def test_the_next_shard_is_new_each_time(count: int) -> None:
    names: list[str] = []
    for _ in range(count):
        names.append(next_shard_name(names[-1:]))

    assert (count, f"model-{count:05d}-of-{count:05d}.safetensors") == (len(set(names)), names[-1])


@pytest.mark.parametrize(
    ("shard", "count", "names"),
    [
        ("mtp.safetensors", 1, ["mtp.safetensors"]),
        ("mtp.safetensors", 2, ["mtp-00001-of-00002.safetensors", "mtp-00002-of-00002.safetensors"]),
        ("model.safetensors", 2, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        (
            "model-00046-of-00046.safetensors",
            2,
            ["model-00046-of-00047.safetensors", "model-00047-of-00047.safetensors"],
        ),
    ],
)
def test_the_parts_of_a_split_shard_are_numbered_on(shard: str, count: int, names: list[str]) -> None:
    assert split_names(shard, count) == names


@given(
    shard=st.sampled_from(["mtp.safetensors", "model.safetensors", "model-00046-of-00046.safetensors"]),
    count=st.integers(1, 40),
    others=st.lists(st.sampled_from(["config.json", "model-00001-of-00045.safetensors", "other.safetensors"])),
    lost=st.none() | st.integers(0, 39),
)
def test_parts_are_found_again_when_all_are_there(shard: str, count: int, others: list[str], lost: int | None) -> None:
    names = split_names(shard, count)
    present = [name for number, name in enumerate(names) if number != lost] + others
    complete = lost is None or lost >= count
    assert find_split(shard, present) == (names if complete else [])
