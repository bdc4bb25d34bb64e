"""The small world in which a hostile input is tried: a base, a donor, a diff-only graft, a manifest, and a canary outside.

Shards are written here by hand, so that a mistake of the package's own writer cannot hide one of its reader.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
S1, S2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
D1, D2 = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
NEW = "model-00003-of-00003.safetensors"
CANARY = "CANARY-5c1e-must-not-be-seen"

Entry = tuple[str, list[int]]
WIDTH = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1, "I64": 8}

BASE: dict[str, dict[str, Entry]] = {
    S1: {
        "model.embed_tokens.weight": ("BF16", [8, 4]),
        "model.layers.0.mlp.weight": ("BF16", [4, 4]),
        "model.layers.0.scale": ("F32", []),
    },
    S2: {
        "model.layers.1.mlp.weight": ("BF16", [4, 4]),
        "model.norm.weight": ("BF16", [4]),
        "lm_head.weight": ("BF16", [8, 4]),
    },
}
DRAFT: dict[str, Entry] = {
    "model.layers.2.eh_proj.weight": ("BF16", [4, 8]),
    "model.layers.2.mlp.weight": ("BF16", [4, 4]),
    "model.layers.2.mlp.gate.bias": ("F32", [4]),
}
DONOR = {D1: BASE[S1], D2: {**DRAFT, "model.norm.weight": ("BF16", [4])}}
T1 = "model.layers.1.mlp.weight"
EH = "model.layers.2.eh_proj.weight"

MANIFEST = f"""\
overlay: 1
name: small-mtp
summary: Adds layer 2.
license: mit
base: ../base
donors:
  bf16: ../donor
grafts:
  - shard: {NEW}
    from: bf16
    tensors: ["model.layers.2.**"]
    expect: {{tensors: 3, bytes: 112, dtypes: {{BF16: 2, F32: 1}}}}
"""


@dataclass(frozen=True, slots=True)
class World:
    """The folder of one case."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name


Damage = Callable[[World], None]


def nbytes(entry: Entry) -> int:
    size = WIDTH[entry[0]]
    for extent in entry[1]:
        size *= extent
    return size


def header_table(tensors: Mapping[str, Entry]) -> dict[str, Any]:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, entry in tensors.items():
        table[name] = {"dtype": entry[0], "shape": entry[1], "data_offsets": [at, at + nbytes(entry)]}
        at += nbytes(entry)
    return table


def shard_bytes(table: object, data: bytes, *, claim: int | None = None, pad: bytes = b" ") -> bytes:
    """A shard with the header `table` (bytes are taken as they are); `claim` overrides the length that it states."""
    text = table if isinstance(table, bytes) else json.dumps(table, separators=(",", ":")).encode()
    text += pad * (-len(text) % 8)
    return (len(text) if claim is None else claim).to_bytes(8, "little") + text + data


def data_of(tensors: Mapping[str, Entry], seed: str) -> bytes:
    count = sum(nbytes(entry) for entry in tensors.values())
    block = sha256(seed.encode()).digest()
    return (block * (count // len(block) + 1))[:count]


def write_shard(path: Path, tensors: Mapping[str, Entry], seed: str = "") -> None:
    path.write_bytes(shard_bytes(header_table(tensors), data_of(tensors, seed or path.name)))


def index_of(shards: Mapping[str, Mapping[str, Entry]]) -> dict[str, Any]:
    return {
        "metadata": {"total_size": sum(nbytes(e) for tensors in shards.values() for e in tensors.values())},
        "weight_map": {name: shard for shard, tensors in shards.items() for name in tensors},
    }


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_checkpoint(folder: Path, shards: Mapping[str, Mapping[str, Entry]]) -> None:
    folder.mkdir(parents=True)
    for name, tensors in shards.items():
        write_shard(folder / name, tensors, folder.name + name)
    write_json(folder / INDEX, index_of(shards))
    config = {"architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "num_hidden_layers": 2}
    write_json(folder / "config.json", {**config, "num_nextn_predict_layers": 1})
    write_json(folder / "tokenizer.json", {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}})
    (folder / "chat_template.jinja").write_text("{{ messages }}\n")


def build(root: Path) -> World:
    """A good world; every case damages its own copy."""
    write_checkpoint(root / "base", BASE)
    write_checkpoint(root / "donor", DONOR)
    write_checkpoint(root / "graft", {NEW: DRAFT})
    write_json(root / "graft" / INDEX, index_of({**BASE, NEW: DRAFT}))
    (root / "recipe").mkdir()
    (root / "recipe" / "mtp.yaml").write_text(MANIFEST)
    (root / "outside").mkdir()
    (root / "outside" / "secret.txt").write_text(f"{CANARY}\n")
    write_shard(root / "outside" / NEW, DRAFT)
    return World(root)


def snapshot(root: Path, leave_out: Iterable[str] = ()) -> dict[str, tuple[object, ...]]:
    """Everything below `root`: kind, mode, time of change and bytes; large files by size, since none has data."""
    seen: dict[str, tuple[object, ...]] = {}
    skipped = set(leave_out)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            if relative not in skipped:
                seen[relative] = _state(path)
    return seen


def _state(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return ("link", os.readlink(path))
    if not stat.S_ISREG(status.st_mode):
        return (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode))
    small = status.st_size < 32 << 20
    digest = sha256(Path(path).read_bytes()).hexdigest() if small else status.st_size
    return ("file", stat.S_IMODE(status.st_mode), status.st_mtime_ns, digest)
