"""Damage to a checkpoint in a folder: each function does one kind, and says so in its name."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.checkpoints import INDEX, read_shard, shard_bytes

Damage = Callable[[Path, str], None]
"""Called with the folder and the name of the shard to be damaged."""


def flip_first_data_byte(folder: Path, shard: str) -> None:
    raw, start, _ = _parts(folder / shard)
    _rewrite(folder / shard, raw[:start] + bytes([raw[start] ^ 1]) + raw[start + 1 :])


def flip_last_data_byte(folder: Path, shard: str) -> None:
    raw, _, _ = _parts(folder / shard)
    _rewrite(folder / shard, raw[:-1] + bytes([raw[-1] ^ 1]))


def break_a_byte_of_the_header(folder: Path, shard: str) -> None:
    raw, start, _ = _parts(folder / shard)
    at = raw.index(b'"dtype"', 0, start)
    _rewrite(folder / shard, raw[:at] + b"#" + raw[at + 1 :])


def truncate(folder: Path, shard: str) -> None:
    raw, _, _ = _parts(folder / shard)
    _rewrite(folder / shard, raw[:-3])


def append(folder: Path, shard: str) -> None:
    raw, _, _ = _parts(folder / shard)
    _rewrite(folder / shard, raw + b"\0\0\0")


def swap_two_shards(folder: Path, shard: str) -> None:
    """Exchange the names of two shards of one size."""
    other = next(
        p.name for p in sorted(folder.glob("*.safetensors")) if p.name != shard and _same_size(p, folder / shard)
    )
    for source, goal in ((shard, "x"), (other, shard), ("x", other)):
        os.rename(folder / source, folder / goal)


def rename_a_tensor(folder: Path, shard: str) -> None:
    def change(table: dict[str, Any]) -> dict[str, Any]:
        first, *_ = table
        return {name.replace("layers", "lAyers") if name == first else name: entry for name, entry in table.items()}

    _edit_header(folder / shard, change)


def change_a_dtype(folder: Path, shard: str) -> None:
    """BF16 becomes F16: no size changes."""

    def change(table: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {**entry, "dtype": "F16" if entry["dtype"] == "BF16" else entry["dtype"]}
            for name, entry in table.items()
        }

    _edit_header(folder / shard, change)


def duplicate_a_tensor(folder: Path, shard: str) -> None:
    """A tensor of another shard lies in this one as well."""
    other = next(path for path in sorted(folder.glob("*.safetensors")) if path.name != shard)
    copied = next(iter(read_shard(other).values()))
    _rewrite(folder / shard, shard_bytes([copied, *read_shard(folder / shard).values()]))


def map_a_tensor_elsewhere(folder: Path, shard: str) -> None:
    document = json.loads((folder / INDEX).read_bytes())
    name = next(name for name, owner in document["weight_map"].items() if owner == shard)
    document["weight_map"][name] = next(owner for owner in document["weight_map"].values() if owner != shard)
    _rewrite(folder / INDEX, json.dumps(document, indent=2).encode() + b"\n")


def forget_a_tensor(folder: Path, shard: str) -> None:
    document = json.loads((folder / INDEX).read_bytes())
    del document["weight_map"][next(name for name, owner in document["weight_map"].items() if owner == shard)]
    _rewrite(folder / INDEX, json.dumps(document, indent=2).encode() + b"\n")


def invent_a_tensor(folder: Path, shard: str) -> None:
    document = json.loads((folder / INDEX).read_bytes())
    document["weight_map"]["model.layers.0.ghost"] = shard
    _rewrite(folder / INDEX, json.dumps(document, indent=2).encode() + b"\n")


def change_total_size(folder: Path, shard: str) -> None:
    document = json.loads((folder / INDEX).read_bytes())
    document["metadata"]["total_size"] += 1
    _rewrite(folder / INDEX, json.dumps(document, indent=2).encode() + b"\n")


def state_wrong_parameters(folder: Path, shard: str) -> None:
    """A total_parameters as it is kept from another checkpoint."""
    document = json.loads((folder / INDEX).read_bytes())
    document["metadata"]["total_parameters"] = 10**9
    _rewrite(folder / INDEX, json.dumps(document, indent=2).encode() + b"\n")


def empty_the_weight_map(folder: Path, shard: str) -> None:
    document = json.loads((folder / INDEX).read_bytes())
    document["weight_map"] = {}
    _rewrite(folder / INDEX, json.dumps(document, indent=2).encode() + b"\n")


def map_to_a_path(folder: Path, shard: str) -> None:
    text = (folder / INDEX).read_bytes()
    _rewrite(folder / INDEX, text.replace(b'"' + shard.encode(), b'"./' + shard.encode()))


def remove_the_index(folder: Path, shard: str) -> None:
    (folder / INDEX).unlink()


def remove_the_metadata(folder: Path, shard: str) -> None:
    document = json.loads((folder / INDEX).read_bytes())
    del document["metadata"]
    _rewrite(folder / INDEX, json.dumps(document, indent=2).encode() + b"\n")


def break_the_index(folder: Path, shard: str) -> None:
    _rewrite(folder / INDEX, (folder / INDEX).read_bytes()[:-9])


def add_a_stray_shard(folder: Path, shard: str) -> None:
    (folder / "extra.safetensors").write_bytes((folder / shard).read_bytes())


def add_a_shard_that_loaders_prefer(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").write_bytes((folder / shard).read_bytes())


def add_a_consolidated_shard(folder: Path, shard: str) -> None:
    (folder / "consolidated.00.safetensors").write_bytes((folder / shard).read_bytes())


def add_a_name_that_differs_in_case(folder: Path, shard: str) -> None:
    (folder / f"Model{shard.removeprefix('model')}").write_bytes((folder / shard).read_bytes())


def rename_the_shard_and_its_entries(folder: Path, shard: str) -> None:
    """A listed shard with a name that loaders which glob for ``model*`` pass over."""
    (folder / shard).rename(folder / "mtp.safetensors")
    text = (folder / INDEX).read_bytes()
    _rewrite(folder / INDEX, text.replace(b'"' + shard.encode(), b'"mtp.safetensors'))


def give_a_tensor_an_empty_name(folder: Path, shard: str) -> None:
    def change(table: dict[str, Any]) -> dict[str, Any]:
        first, *_ = table
        return {"" if name == first else name: entry for name, entry in table.items()}

    name = next(iter(read_shard(folder / shard)))
    text = (folder / INDEX).read_bytes()
    _rewrite(folder / INDEX, text.replace(b'"' + name.encode() + b'"', b'""'))
    _edit_header(folder / shard, change)


def give_a_tensor_a_long_name(folder: Path, shard: str) -> None:
    name, long = next(iter(read_shard(folder / shard))), "x" * 5000
    entries = [
        entry._replace(name=long if entry.name == name else entry.name) for entry in read_shard(folder / shard).values()
    ]
    text = (folder / INDEX).read_bytes()
    _rewrite(folder / INDEX, text.replace(b'"' + name.encode() + b'"', b'"' + long.encode() + b'"'))
    _rewrite(folder / shard, shard_bytes(entries))


def make_a_loop_of_links(folder: Path, shard: str) -> None:
    (folder / shard).unlink()
    (folder / shard).symlink_to(shard)


def add_a_foreign_file(folder: Path, shard: str) -> None:
    (folder / "notes.txt").write_bytes(b"not from here")


def remove_the_shard(folder: Path, shard: str) -> None:
    (folder / shard).unlink()


def remove_a_sidecar(folder: Path, shard: str) -> None:
    (folder / "LICENSE").unlink()


def edit_a_sidecar(folder: Path, shard: str) -> None:
    """One byte of it, so that its size stays."""
    _rewrite(folder / "LICENSE", b"MIt\n")


def break_a_json_sidecar(folder: Path, shard: str) -> None:
    _rewrite(folder / "config.json", (folder / "config.json").read_bytes().replace(b"{", b"[", 1))


def replace_the_shard_by_a_dangling_link(folder: Path, shard: str) -> None:
    (folder / shard).unlink()
    (folder / shard).symlink_to(folder / "nothing")


def remove_what_the_shard_leads_to(folder: Path, shard: str) -> None:
    """As a cache that was pruned does."""
    (folder / shard).resolve().unlink()


def replace_the_shard_by_a_link_out(folder: Path, shard: str) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / shard).rename(outside)
    (folder / shard).symlink_to(outside)


def replace_the_shard_by_a_folder(folder: Path, shard: str) -> None:
    (folder / shard).unlink()
    (folder / shard).mkdir()


def break_the_receipt(folder: Path, shard: str) -> None:
    receipt = folder / ".overlay" / "receipt.json"
    receipt.write_bytes(receipt.read_bytes()[:-2])


def _parts(path: Path) -> tuple[bytes, int, dict[str, Any]]:
    """The bytes of a shard, where its data begin, and its header."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return raw, 8 + length, json.loads(raw[8 : 8 + length])


def _edit_header(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write the header anew; blanks keep the size of the file."""
    raw, start, table = _parts(path)
    metadata = {"__metadata__": table.pop("__metadata__")} if "__metadata__" in table else {}
    text = json.dumps({**metadata, **change(table)}, separators=(",", ":")).encode()
    assert len(text) <= start - 8
    _rewrite(path, raw[:8] + text.ljust(start - 8) + raw[start:])


def _rewrite(path: Path, data: bytes) -> None:
    """Replace the file behind `path`, through links, as a broken download or disk would."""
    real = path.resolve()
    mode = real.stat().st_mode
    real.chmod(0o644)
    real.write_bytes(data)
    real.chmod(mode)


def _same_size(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size
