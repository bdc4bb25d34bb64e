"""Dtypes: the table against the library's own messages and files, and sizes against plain arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.formats.dtypes import BITS, RANK, count_bytes, count_elements

deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = safetensors.deserialize


def file_of(dtype: str, shape: tuple[int, ...], nbytes: int) -> bytes:
    text = f'{{"a":{{"dtype":"{dtype}","shape":{list(shape)},"data_offsets":[0,{nbytes}]}}}}'.encode()
    return len(text).to_bytes(8, "little") + text + bytes(nbytes)


def test_the_names_and_their_order_are_those_of_the_library() -> None:
    with pytest.raises(safetensors.SafetensorError) as caught:
        deserialize(file_of("F7", (1,), 1))

    assert list(BITS) == re.findall(r"`([A-Z][A-Z0-9_]*)`", str(caught.value).partition("expected one of")[2])


def test_a_later_dtype_is_never_narrower() -> None:
    in_order = sorted(BITS, key=lambda name: RANK[name])

    assert (list(BITS), [8, 4, 6, 6, *sorted(BITS[name] for name in in_order[4:])]) == (
        in_order,
        [BITS[name] for name in in_order],
    )


@pytest.mark.parametrize("dtype", list(BITS))
def test_the_library_agrees_on_the_size_of_eight_elements(dtype: str) -> None:
    size = count_bytes(dtype, (2, 4))

    assert [("a", size)] == [(name, len(entry["data"])) for name, entry in deserialize(file_of(dtype, (2, 4), size))]
    with pytest.raises(safetensors.SafetensorError):
        deserialize(file_of(dtype, (2, 4), size + 1))


@settings(max_examples=200)
@given(st.sampled_from(list(BITS)), st.lists(st.integers(0, 40), max_size=4).map(tuple))
def test_bytes_are_elements_times_bits_where_they_fill_whole_bytes(dtype: str, shape: tuple[int, ...]) -> None:
    bits = prod(shape) * BITS[dtype]

    if bits % 8:
        with pytest.raises(ValueError):
            count_bytes(dtype, shape)
    else:
        assert bits // 8 == count_bytes(dtype, shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), 1), ((0,), 0), ((3, 0, 5), 0), ((2, 3, 4), 24), ((2**64 - 1,), 2**64 - 1), ((0, 2**63, 2**63), 0)],
)
def test_elements_are_the_product_of_the_extents(shape: tuple[int, ...], expected: int) -> None:
    actual = count_elements(shape)

    assert expected == actual


@pytest.mark.parametrize("shape", [(2**32, 2**32), (2**62, 2**62, 0), (2**63, 2, 0)])
def test_a_partial_product_past_64_bits_is_refused_here_and_by_the_library(shape: tuple[int, ...]) -> None:
    with pytest.raises(OverflowError):
        count_elements(shape)
    with pytest.raises(safetensors.SafetensorError, match="overflow"):
        deserialize(file_of("U8", shape, 0))


@pytest.mark.parametrize(("dtype", "shape"), [("F64", (2**58,)), ("U8", (2**61,)), ("F4", (2**62,))])
def test_a_size_in_bits_past_64_bits_is_refused_here_and_by_the_library(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(OverflowError):
        count_bytes(dtype, shape)
    with pytest.raises(safetensors.SafetensorError, match="overflow"):
        deserialize(file_of(dtype, shape, 0))


def test_an_unknown_dtype_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        count_bytes("I4", (2,))
