"""Broken checkpoints: headers, indexes, paths, and resources.

Each is looked at by ``verify`` (exit 1: findings) and used as a base by ``apply`` (exit 3: invalid input).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from tests.bad_inputs.case import Case, all_of, append, cut, edit, fifo, folder, instead, link, remove, replace, write
from tests.bad_inputs.world import (
    BASE,
    DRAFT,
    INDEX,
    NEW,
    S1,
    S2,
    T1,
    Damage,
    World,
    data_of,
    header_table,
    index_of,
    shard_bytes,
    write_json,
    write_shard,
)

SHARD = f"base/{S2}"
APPLY = "apply --base base --graft graft -o serve"

Table = dict[str, Any]


def _header(change: Callable[[Table], object]) -> Damage:
    """The second shard with an altered header over unaltered data."""
    table = header_table(BASE[S2])
    change(table)
    return write(SHARD, shard_bytes(table, data_of(BASE[S2], "x")))


def _entry(**values: Any) -> Damage:
    return _header(lambda table: table[T1].update(values))


def _raw(text: bytes, **options: Any) -> Damage:
    return write(SHARD, shard_bytes(text, data_of(BASE[S2], "x"), **options))


def _text() -> bytes:
    return json.dumps(header_table(BASE[S2]), separators=(",", ":")).encode()


def _sparse_header(world: World) -> None:
    with (world / SHARD).open("wb") as stream:
        stream.write((100_000_001).to_bytes(8, "little") + b"{")
        stream.truncate(8 + 100_000_001)


def _twice(text: bytes) -> bytes:
    return text[:-1] + b',"%s":%s}' % (T1.encode(), json.dumps(header_table(BASE[S2])[T1]).encode())


HEADERS: list[tuple[str, Damage, str]] = [
    ("an empty file", write(SHARD, b""), "expected an 8-byte header length, found a file of 0 bytes"),
    ("seven bytes", write(SHARD, b"\1\0\0\0\0\0\0"), "found a file of 7 bytes"),
    ("only a length", write(SHARD, b"\x10" + b"\0" * 7), "expected 24 header bytes, found a file of 8 bytes"),
    ("a length past the end", _raw(_text(), claim=50_000), "found a file of"),
    ("a length of 2**63", _raw(_text(), claim=1 << 63), "at most 100000000"),
    (
        "a length of 100,000,001 in a sparse file",
        _sparse_header,
        "at most 100000000 bytes, found a length of 100000001",
    ),
    ("a length of zero", _raw(b"", claim=0), "begin with '{'"),
    ("no JSON", _raw(b"{'single': 1}"), "expected JSON"),
    ("an array", _raw(b"[1, 2]"), "begin with '{'"),
    ("a byte-order mark", _raw(b"\xef\xbb\xbf" + _text()), "begin with '{'"),
    ("blanks before the brace", _raw(b"  " + _text()), "begin with '{'"),
    ("bytes that are not UTF-8", _raw(_text().replace(b"norm", b"n\xffrm")), "expected JSON"),
    ("NUL as padding", _raw(_text() + b" ", pad=b"\0"), "expected JSON"),
    ("two JSON documents", _raw(_text() + _text()), "expected JSON"),
    ("NaN as a shape", _raw(_text().replace(b"[4,4]", b"NaN,", 1)), "expected JSON"),
    ("a tensor named twice", _raw(_twice(_text())), f"found '{T1}' twice"),
    ("a field given twice", _raw(_text().replace(b'"dtype"', b'"dtype":"BF16","dtype"', 1)), "found 'dtype' twice"),
    ("ten thousand nested arrays", _raw(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), "expected"),
    ("overlapping tensors", _entry(shape=[4, 4], data_offsets=[8, 40]), T1),
    ("reversed offsets", _entry(data_offsets=[32, 0]), T1),
    ("a negative offset", _entry(data_offsets=[-32, 0]), T1),
    ("offsets of minus zero", _raw(_text().replace(b"[0,", b"[-0,", 1)), "found -0"),
    ("an offset of 2**64", _entry(data_offsets=[1 << 64, (1 << 64) + 32]), T1),
    ("three offsets", _entry(data_offsets=[0, 16, 32]), T1),
    ("offsets as text", _entry(data_offsets=["0", "32"]), T1),
    ("an unknown dtype", _entry(dtype="F12"), T1),
    ("a dtype in lower case", _entry(dtype="bf16"), T1),
    ("a dtype that is null", _entry(dtype=None), T1),
    ("a shape that does not fit its bytes", _entry(shape=[4, 5]), "expected 40 bytes for BF16 [4, 5]"),
    ("a shape whose product overflows to the right size", _entry(shape=[1 << 63, 2, 16]), T1),
    ("a fractional dimension", _entry(shape=[4.0, 4]), T1),
    ("a boolean dimension", _entry(shape=[True, 16]), T1),
    ("a negative dimension", _entry(shape=[-4, -4]), T1),
    ("no dtype", _header(lambda table: table[T1].pop("dtype")), T1),
    ("an entry that is a list", _header(lambda table: table.update({T1: [1]})), T1),
    ("metadata with a number", _header(lambda table: table.update({"__metadata__": {"a": 1}})), "__metadata__"),
    ("metadata that is a list", _header(lambda table: table.update({"__metadata__": []})), "__metadata__"),
    ("a tensor left out, which leaves a hole", _header(lambda table: table.pop("model.norm.weight")), "lm_head.weight"),
    ("data cut five bytes short", cut(SHARD, -5), ""),
    ("bytes after the last tensor", append(SHARD, b"PK\5\6" + b"\0" * 18), ""),
    (
        "a Git LFS pointer",
        write(SHARD, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "a Git LFS pointer",
    ),
    ("a saved error page", write(SHARD, "<!DOCTYPE html><title>403</title>"), "an HTML page"),
    ("a pickle stream", write(SHARD, b"\x80\4\x95\x20\0\0\0\0\0\0\0\x8c\5posix\x8c\6system\x93."), "a pickle stream"),
    ("gzip data", write(SHARD, gzip.compress(b"x" * 99)), "gzip data"),
    ("a ZIP archive", write(SHARD, b"PK\3\4" + b"\0" * 60), "a ZIP archive"),
    ("a GGUF file", write(SHARD, b"GGUF\3\0\0\0" + b"\0" * 60), "a GGUF file"),
]


def _map(change: Callable[[Table], object]) -> Damage:
    return edit(f"base/{INDEX}", lambda index: change(index["weight_map"]))


def _index(change: Callable[[Table], object]) -> Damage:
    return edit(f"base/{INDEX}", change)


def _named(value: object, tensor: str = T1) -> Damage:
    return _map(lambda weights: weights.update({tensor: value}))


INDEXES: list[tuple[str, Damage, tuple[str, ...]]] = [
    ("empty", write(f"base/{INDEX}", b""), (INDEX,)),
    ("no JSON", write(f"base/{INDEX}", "{'weight_map': {}}"), (INDEX,)),
    ("an array", write(f"base/{INDEX}", "[]"), (INDEX,)),
    ("cut in half", cut(f"base/{INDEX}", 0.5), (INDEX,)),
    ("NaN", replace(f"base/{INDEX}", "204", "NaN"), (INDEX,)),
    ("no weight_map", _index(lambda index: index.pop("weight_map")), (INDEX, "weight_map")),
    ("a weight_map that is a list", _index(lambda index: index.update(weight_map=[])), (INDEX, "weight_map")),
    ("an empty weight_map over shards", _index(lambda index: index.update(weight_map={})), (INDEX, "weight_map")),
    ("a shard name that is a number", _named(3), (INDEX, T1)),
    ("a shard name that climbs out", _named("../outside/" + NEW), (INDEX, T1, "../outside")),
    ("an absolute shard name", _named("/etc/passwd.safetensors"), (INDEX, T1, "/etc/passwd")),
    ("a shard name that climbs out by backslashes", _named("..\\outside\\" + NEW), (INDEX, T1)),
    ("a shard name with NUL", _named(S2 + "\0.safetensors"), (INDEX, T1)),
    ("a shard name with an escape sequence", _named("\x1b[2J.safetensors"), (INDEX, T1, "\\x1b[2J")),
    ("a shard name of 300 bytes", _named("m" * 300 + ".safetensors"), (INDEX, T1, "255")),
    ("a shard name that is a dot", _named("."), (INDEX, T1)),
    ("a pickle as shard", all_of(write("base/x.bin", b"\x80\4N."), _named("x.bin")), (INDEX, T1, "x.bin")),
    (
        "a shard that is not there",
        _named("model-00009-of-00009.safetensors", "x"),
        ("model-00009-of-00009.safetensors",),
    ),
    ("a tensor that no shard holds", _named(S2, "ghost.weight"), (S2, "ghost.weight", "phantom")),
    ("a tensor left out", _map(lambda weights: weights.pop(T1)), (S2, T1, "orphan")),
    ("a tensor mapped to the wrong shard", _named(S1), (S2, T1, S1)),
    (
        "a tensor mapped twice",
        replace(f"base/{INDEX}", f'"{T1}": "{S2}"', f'"{T1}": "{S1}", "{T1}": "{S2}"'),
        (INDEX, T1, "twice"),
    ),
    (
        "a total_size that is text",
        _index(lambda index: index["metadata"].update(total_size="big")),
        (INDEX, "total_size"),
    ),
    ("a negative total_size", _index(lambda index: index["metadata"].update(total_size=-4)), (INDEX, "total_size")),
    ("a directory", folder(f"base/{INDEX}"), (INDEX, "a directory")),
    ("a FIFO", fifo(f"base/{INDEX}"), (INDEX, "a FIFO")),
    ("a link that leaves the checkpoint", link(f"base/{INDEX}", "../outside/secret.txt"), (INDEX, "outside")),
    (
        "two shards that differ in case only",
        all_of(
            lambda world: write_shard(world / f"base/{S2.upper()[:-12]}.safetensors", {"x.weight": ("F32", [1])}),
            _named(f"{S2.upper()[:-12]}.safetensors", "x.weight"),
        ),
        (S2, "case"),
    ),
    (
        "a tensor in two listed shards",
        all_of(
            lambda world: write_shard(world / "base" / S1, {**BASE[S1], T1: ("BF16", [4, 4])}),
        ),
        (S1, T1, "duplicate"),
    ),
]

PATHS: list[tuple[str, Damage, tuple[str, ...]]] = [
    ("a link that leaves the checkpoint", link(SHARD, f"../outside/{NEW}"), (S2, "outside")),
    ("an absolute link that leaves the checkpoint", link(SHARD, f"{{root}}/outside/{NEW}"), (S2, "outside")),
    ("a dangling link", link(SHARD, "../blobs/gone"), (S2, "dangling")),
    ("a link to itself", link(SHARD, S2), (S2, "loop")),
    ("a FIFO", fifo(SHARD), (S2, "a FIFO")),
    ("a directory", folder(SHARD), (S2, "a directory")),
    ("missing", remove(SHARD), (S2,)),
    ("a link to a device", instead(SHARD, lambda path: os.symlink("/dev/zero", path)), (S2, "/dev/zero")),
    ("a sidecar that is a link out", link("base/config.json", "../outside/secret.txt"), ("config.json", "outside")),
    ("a sidecar that is a FIFO", fifo("base/tokenizer.json"), ("tokenizer.json", "a FIFO")),
]


def _many_tensors(world: World) -> None:
    tensors = {f"model.layers.{n // 768}.mlp.experts.{n % 768}.weight": ("F32", [1]) for n in range(60_000)}
    write_shard(world / SHARD, tensors)
    write_json(world / "base" / INDEX, index_of({S1: BASE[S1], S2: tensors}))


def _named_shard_twice(world: World) -> None:
    write_shard(world / "graft" / S2, {**BASE[S2]}, "other bytes")


def cases() -> Iterator[Case]:
    for number, (what, damage, found) in enumerate(HEADERS):
        words: tuple[str, ...] = (S2, found)
        process = number % 10 == 0
        yield Case(group="header", what=what, damage=damage, run="verify base", exit=1, says=words, process=process)
        yield Case(group="header", what=what, damage=damage, run=APPLY, exit=3, says=words)
    for number, (what, damage, words) in enumerate(INDEXES):
        process = number % 10 == 3
        yield Case(group="index", what=what, damage=damage, run="verify base", exit=1, says=words, process=process)
        yield Case(group="index", what=what, damage=damage, run=APPLY, exit=3, says=words)
    for number, (what, damage, words) in enumerate(PATHS):
        process = number % 5 == 4
        yield Case(group="paths", what=what, damage=damage, run="verify base", exit=1, says=words, process=process)
        yield Case(group="paths", what=what, damage=damage, run=APPLY, exit=3, says=words)
    yield from _warnings()
    yield from _resources()


def _warnings() -> Iterator[Case]:
    """What loads everywhere and is wrong all the same: said, and not refused."""
    for what, damage, words in (
        (
            "another total_size",
            _index(lambda index: index["metadata"].update(total_size=1)),
            ("warning", INDEX, "total_size", "204", "found 1"),
        ),
        ("no metadata", _index(lambda index: index.pop("metadata")), ("warning", INDEX, "metadata")),
        (
            "a shard that it does not name",
            lambda world: write_shard(world / "base/extra.safetensors", DRAFT),
            ("warning", "extra.safetensors"),
        ),
    ):
        yield Case(group="index", what=what, damage=damage, run="verify base", exit=0, says=words)


def _resources() -> Iterator[Case]:
    yield Case(
        group="resource",
        what="60,000 tensors in one shard",
        damage=_many_tensors,
        run="verify base",
        exit=0,
        says=("ok at level headers", "60003 tensors"),
        process=True,
        seconds=10,
    )
    yield Case(
        group="resource",
        what="60,000 tensors that no index maps",
        damage=all_of(_many_tensors, lambda world: write_json(world / "base" / INDEX, index_of(BASE))),
        run=APPLY,
        exit=3,
        says=("and ", " more"),
        seconds=10,
    )
    yield Case(
        group="resource",
        what="a sparse shard of 1 TB whose header is cut",
        damage=lambda world: os.truncate(world / SHARD, 1 << 40),
        run="verify base",
        exit=1,
        says=(S2, "10995116"),
        seconds=5,
    )
