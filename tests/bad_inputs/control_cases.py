"""Good inputs that look odd: refusing them would be as wrong as accepting a bad one."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from tests.bad_inputs.case import Case, all_of, append, nothing, remove, replace, write
from tests.bad_inputs.world import (
    BASE,
    INDEX,
    S1,
    S2,
    Damage,
    Entry,
    World,
    data_of,
    header_table,
    shard_bytes,
    write_json,
    write_shard,
)

PAIR = "apply --base base --graft graft -o serve"
APPLY = "apply recipe/mtp.yaml -o serve"


def _legal_oddities(world: World) -> None:
    tensors: dict[str, Entry] = {"é.weight": ("F32", [2]), "empty": ("F32", [0, 4]), "scalar": ("F32", [])}
    write_shard(world / "base" / S2, tensors)
    weights = {name: shard for shard, held in ((S1, BASE[S1]), (S2, tensors)) for name in held}
    write_json(world / "base" / INDEX, {"metadata": {"total_size": 112, "note": "kept"}, "weight_map": weights})


def _unaligned(world: World) -> None:
    raw = shard_bytes(header_table(BASE[S2]), data_of(BASE[S2], "x"))
    length = int.from_bytes(raw[:8], "little")
    (world / "base" / S2).write_bytes(
        (length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :]
    )


def _single(world: World) -> None:
    for name in (S1, S2, INDEX):
        (world / "base" / name).unlink()
    write_shard(world / "base" / "model.safetensors", {**BASE[S1], **BASE[S2]})
    (world / "graft" / INDEX).unlink()


def _snapshot(world: World) -> None:
    """The base as the Hub's cache holds it: every file a link to ``../../blobs/<sha256>``."""
    _as_snapshot(world, shared=False)


def _shared_snapshot(world: World) -> None:
    """The base as huggingface_hub 2.4 holds it: file to the repository's blob to the store that all repositories share."""
    _as_snapshot(world, shared=True)


def _as_snapshot(world: World, *, shared: bool) -> None:
    cache = world / "cache"
    repository = cache / "models--org--base"
    snapshot, blobs = repository / "snapshots" / ("a" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    snapshot.parent.mkdir()
    (world / "base").rename(snapshot)
    (world / "base").symlink_to(snapshot)
    for file in sorted(snapshot.iterdir()):
        digest = sha256(file.read_bytes()).hexdigest()
        blob = blobs / digest
        if shared:
            store = cache / "blobs" / digest[:2] / digest
            store.parent.mkdir(parents=True, exist_ok=True)
            file.rename(store)
            store.chmod(0o444)
            blob.symlink_to(Path("../../blobs") / digest[:2] / digest)
        else:
            file.rename(blob)
        file.symlink_to(Path("../../blobs") / digest)


def _odd_tensor_name(world: World) -> None:
    write_shard(world / "donor/model-00001-of-00003.safetensors", {**BASE[S1], "a\nb\x1b[2J": ("F32", [1])})


def _byte_order_mark(world: World) -> None:
    path = world / "recipe/mtp.yaml"
    path.write_text("\ufeff" + path.read_text())


def _manifest_through_a_link(world: World) -> None:
    (world / "recipe/mtp.yaml").rename(world / "real.yaml")
    (world / "recipe/mtp.yaml").symlink_to("../real.yaml")


def _read_only(world: World) -> None:
    for path in (world / "base").iterdir():
        path.chmod(0o444)


LOOKED_AT: list[tuple[str, Damage, str, tuple[str, ...]]] = [
    ("a good checkpoint", nothing, "verify base", ("ok at level headers", "2 shards")),
    ("a good checkpoint, every byte", nothing, "verify base --level content", ("ok at level content",)),
    ("a good manifest", nothing, "verify recipe/mtp.yaml", ("ok at level headers", "9 tensors")),
    ("scalars, empty tensors and names in Unicode", _legal_oddities, "verify base", ("ok at level headers",)),
    ("a header that is not a multiple of 8", _unaligned, "verify base", ("note", S2, "misaligned")),
    ("a tensor name with a newline", _odd_tensor_name, "inspect donor", ("a\\nb\\x1b[2J",)),
    ("blanks after a JSON sidecar", append("base/config.json", " \n"), "verify base", ("ok at level headers",)),
]

APPLIED: list[tuple[str, Damage, str]] = [
    ("a manifest", nothing, APPLY),
    ("a manifest with CRLF", replace("recipe/mtp.yaml", "\n", "\r\n"), APPLY),
    ("a manifest with a byte-order mark", _byte_order_mark, APPLY),
    ("a manifest through a link", _manifest_through_a_link, f"{APPLY} --base base --donor bf16=donor"),
    ("a diff-only repository", nothing, PAIR),
    ("a diff-only repository without an index", remove(f"graft/{INDEX}"), PAIR),
    ("a graft without sidecars", all_of(remove("graft/config.json"), remove("graft/tokenizer.json")), PAIR),
    ("an empty target", lambda world: (world / "serve").mkdir(), PAIR),
    ("a base in one file", _single, PAIR),
    ("a base in a snapshot of the Hub's cache", _snapshot, PAIR),
    ("a base in a snapshot with a shared store", _shared_snapshot, PAIR),
    ("a base that is read-only", _read_only, PAIR),
    ("an odd file in the base", write("base/naïve name.txt", "x"), PAIR),
]


def cases() -> Iterator[Case]:
    for what, damage, run, says in LOOKED_AT:
        yield Case(group="control", what=what, damage=damage, run=run, exit=0, says=says)
    for what, damage, run in APPLIED:
        yield Case(group="control", what=what, damage=damage, run=run, exit=0, says=("serve: 9 tensors",), writes=True)
