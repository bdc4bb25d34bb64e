"""Digests of lists: names and sizes count, the order does not."""

from __future__ import annotations

from hashlib import sha256

import pytest

from overlay.formats.digest import SHA256_HEX, digest_of_list, sha256_of

ENTRIES = [("b.safetensors", 2, "bb"), ("a.safetensors", 1, "aa")]


def test_the_digest_of_a_list_is_that_of_its_canonical_text() -> None:
    expected = sha256(b'[["a.safetensors",1,"aa"],["b.safetensors",2,"bb"]]').hexdigest()

    assert expected == digest_of_list(ENTRIES)


def test_the_order_of_a_list_does_not_count() -> None:
    assert digest_of_list(ENTRIES) == digest_of_list(reversed(ENTRIES))


@pytest.mark.parametrize(
    "changed",
    [
        [],
        ENTRIES[:1],
        [*ENTRIES, ENTRIES[0]],
        [("b.safetensors", 2, "aa"), ("a.safetensors", 1, "bb")],
        [("b.safetensors", 1, "bb"), ("a.safetensors", 2, "aa")],
        [("b.safetensors", 2, "bb"), ("c.safetensors", 1, "aa")],
    ],
)
def test_any_other_list_has_another_digest(changed: list[tuple[str, int, str]]) -> None:
    assert digest_of_list(ENTRIES) != digest_of_list(changed)


def test_a_digest_is_lower_case_hex() -> None:
    digest = sha256_of(b"")

    assert "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" == digest
    assert SHA256_HEX.fullmatch(digest)
