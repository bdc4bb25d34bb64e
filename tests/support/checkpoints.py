"""Checkpoints built by hand: named shapes, and strategies for random ones.

Shards are written and read here with struct and json alone, so that nothing of the package judges itself.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

WIDTHS = {"BF16": 2, "F32": 4, "F16": 2, "F8_E4M3": 1, "U8": 1, "I32": 4, "I64": 8, "BOOL": 1}
"""Bytes an element."""


class Tensor(NamedTuple):
    """A tensor and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def elements(self) -> int:
        return len(self.data) // WIDTHS[self.dtype]


def tensor(name: str, dtype: str = "BF16", shape: tuple[int, ...] = (4,)) -> Tensor:
    """A tensor whose bytes follow from its name."""
    size = WIDTHS[dtype]
    for extent in shape:
        size *= extent
    pattern = sha256(name.encode()).digest()
    return Tensor(name, dtype, shape, (pattern * (size // len(pattern) + 1))[:size])


def shard_bytes(tensors: list[Tensor], metadata: Mapping[str, str] | None = None, *, pad: bool = True) -> bytes:
    """A shard that holds `tensors` in this order."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for entry in tensors:
        end = offset + len(entry.data)
        table[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8 if pad else 0)
    return struct.pack("<Q", len(text)) + text + b"".join(entry.data for entry in tensors)


def read_shard(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a shard, by name."""
    raw = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + length])
    table.pop("__metadata__", None)
    data = raw[8 + length :]
    return {
        name: Tensor(name, entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in table.items()
    }


def read_tensors(folder: str | Path) -> dict[str, tuple[str, Tensor]]:
    """Every tensor of every shard in `folder`, with the shard that holds it; twice the same name is an error."""
    found: dict[str, tuple[str, Tensor]] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        for name, entry in read_shard(path).items():
            assert name not in found, f"{name} lies in {found[name][0]} and in {path.name}"
            found[name] = (path.name, entry)
    return found


def read_weight_map(folder: str | Path) -> dict[str, str]:
    """The weight map of the index in `folder`."""
    weight_map: dict[str, str] = json.loads((Path(folder) / INDEX).read_bytes())["weight_map"]
    return weight_map


@dataclass(frozen=True, kw_only=True)
class IndexStyle:
    """How a writer of indexes sets them out."""

    indent: int | None = 2
    newline: bool = True
    metadata_first: bool = True
    parameters: bool = False
    """Whether ``total_parameters`` is stated as well."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Unknown metadata."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on paper."""

    shards: Mapping[str, list[Tensor]]
    """Without an index, one shard of whatever name."""
    sidecars: Mapping[str, bytes] = field(default_factory=dict)
    index: IndexStyle | None = field(default_factory=IndexStyle)
    metadata: Mapping[str, str] | None = None
    pad: bool = True
    """Whether headers are filled up to a multiple of 8."""

    @property
    def tensors(self) -> list[Tensor]:
        return [entry for tensors in self.shards.values() for entry in tensors]

    @property
    def weight_map(self) -> dict[str, str]:
        return {entry.name: shard for shard, tensors in self.shards.items() for entry in tensors}

    @property
    def total_size(self) -> int:
        return sum(len(entry.data) for entry in self.tensors)

    @property
    def total_parameters(self) -> int:
        return sum(entry.elements for entry in self.tensors)

    def files(self) -> dict[str, bytes]:
        """Every file, by name."""
        files = {name: shard_bytes(ts, self.metadata, pad=self.pad) for name, ts in self.shards.items()}
        if self.index is not None:
            files[INDEX] = index_bytes(self, self.index)
        return {**files, **self.sidecars}

    def write(self, folder: str | Path) -> Path:
        """Write every file into the new folder `folder`."""
        return write_files(folder, self.files())


def index_bytes(checkpoint: Checkpoint, style: IndexStyle) -> bytes:
    """The index of `checkpoint`."""
    metadata: dict[str, Any] = {"total_size": checkpoint.total_size}
    if style.parameters:
        metadata["total_parameters"] = checkpoint.total_parameters
    metadata |= style.extra
    document = {"metadata": metadata, "weight_map": checkpoint.weight_map}
    if not style.metadata_first:
        document = dict(reversed(document.items()))
    text = json.dumps(document, indent=style.indent, ensure_ascii=False)
    return (text + "\n" * style.newline).encode()


def write_files(folder: str | Path, files: Mapping[str, bytes]) -> Path:
    """Write `files` into the new folder `folder`."""
    root = Path(folder)
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


# Named shapes

CONFIG = json.dumps({"architectures": ["TinyForCausalLM"], "model_type": "tiny", "num_hidden_layers": 2}, indent=2)
SIDECARS = {"config.json": CONFIG.encode(), "chat_template.jinja": b"{{ messages }}\n", "LICENSE": b"MIT\n"}


def sharded(layers: int = 2) -> Checkpoint:
    """A dense checkpoint: a shard a layer, an index, three sidecars."""
    shards = {
        f"model-{layer + 1:05d}-of-{layers:05d}.safetensors": [
            tensor(f"model.layers.{layer}.norm.weight", "F32", (3,)),
            tensor(f"model.layers.{layer}.proj.weight", "BF16", (4, 8)),
        ]
        for layer in range(layers)
    }
    return Checkpoint(shards=shards, sidecars=SIDECARS)


def single_file() -> Checkpoint:
    """A checkpoint of one ``model.safetensors``, without an index."""
    return Checkpoint(shards={SINGLE: sharded().tensors}, sidecars=SIDECARS, index=None)


def donor() -> Checkpoint:
    """A checkpoint that also has layer 2, spread over two of its three shards."""
    return Checkpoint(
        shards={
            "model-00001-of-00003.safetensors": sharded().tensors,
            "model-00002-of-00003.safetensors": [
                tensor("lm_head.weight", "BF16", (2, 2)),
                tensor("model.layers.2.norm.weight", "F32", (3,)),
            ],
            "model-00003-of-00003.safetensors": [
                tensor("model.layers.2.proj.weight", "BF16", (4, 8)),
                tensor("model.layers.2.scale", "U8", (5,)),
            ],
        },
        sidecars={"config.json": CONFIG.encode()},
    )


GRAFT_SHARD = "model-00003-of-00003.safetensors"
"""The name that the graft of `manifest_text` has over `sharded()`."""


def manifest_text(**changes: Any) -> str:
    """A manifest that grafts layer 2 of ``donor`` on ``base``; JSON is YAML."""
    value = {
        "overlay": 1,
        "name": "tiny-mtp",
        "base": "base",
        "donors": {"bf16": "donor"},
        "grafts": [{"shard": GRAFT_SHARD, "from": "bf16", "tensors": ["model.layers.2.**"]}],
        **changes,
    }
    return json.dumps(value, indent=2)


def write_graft(root: str | Path, base: Checkpoint | None = None, **changes: Any) -> Path:
    """``base``, ``donor`` and ``overlay.yaml`` in `root`; gives back the manifest's path."""
    folder = Path(root)
    (base or sharded()).write(folder / "base")
    donor().write(folder / "donor")
    path = folder / "overlay.yaml"
    path.write_text(manifest_text(**changes))
    return path


def diff_only(base: Checkpoint | None = None) -> Checkpoint:
    """A diff-only repository over `base`: one new shard, an index that names the base's shards too, one new sidecar.

    Its files are `Checkpoint.files` without the base's shards; see `write_diff_only`.
    """
    whole = base or sharded()
    new = [tensor("model.layers.2.norm.weight", "F32", (3,)), tensor("model.layers.2.proj.weight", "BF16", (4, 8))]
    return replace(whole, shards={**whole.shards, GRAFT_SHARD: new}, sidecars={"mtp.json": b"{}\n"})


def write_diff_only(folder: str | Path, base: Checkpoint | None = None) -> Path:
    """The files of `diff_only` that the base does not have."""
    whole = base or sharded()
    files = {name: data for name, data in diff_only(whole).files().items() if name not in whole.shards}
    return write_files(folder, files)


def write_hub_cache(
    cache: str | Path, checkpoint: Checkpoint, *, repo: str = "org/tiny", hops: int = 1, read_only: bool = True
) -> Path:
    """`checkpoint` as the Hub client keeps it; gives back the snapshot's folder.

    Args:
        hops: 1: the snapshot's links lead to blobs.  2: the blobs are links into a store that repositories share.
        read_only: whether the blobs have mode 0444, as shared caches do.
    """
    folder = Path(cache) / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name, data in checkpoint.files().items():
        digest = sha256(data).hexdigest()
        blob = folder / "blobs" / (digest if name.endswith(".safetensors") else digest[:40])
        real = Path(cache) / "blobs" / digest[:2] / digest if hops == 2 else blob
        real.parent.mkdir(parents=True, exist_ok=True)
        if not real.exists():
            real.write_bytes(data)
        if hops == 2 and not blob.is_symlink():
            blob.symlink_to(os.path.relpath(real, blob.parent))
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        if read_only:
            real.chmod(0o444)
    return snapshot


# Looking


class Seen(NamedTuple):
    """One entry of a tree; only what an ordinary write or a careless tool can change."""

    mode: int
    mtime_ns: int
    link: str
    data: bytes


def snapshot_of(*roots: str | Path) -> dict[str, Seen]:
    """Every entry below `roots`, and the roots themselves: bytes, mode, time of change and link."""
    return {path: _seen(path) for root in roots for path in _walk(str(root))}


def contents_of(root: str | Path) -> dict[str, tuple[int, str, bytes]] | None:
    """Every entry below `root` by relative name, times left out; None when there is nothing."""
    if not os.path.lexists(root):
        return None
    return {os.path.relpath(path, root): (seen.mode, seen.link, seen.data) for path, seen in snapshot_of(root).items()}


def inodes_of(root: str | Path) -> dict[str, tuple[int, ...]]:
    """Every entry below `root` with all that the kernel says of its inode but the time of access."""
    found: dict[str, tuple[int, ...]] = {}
    for path in _walk(str(root)):
        status = os.lstat(path)
        found[path] = (
            *(status.st_ino, status.st_mode, status.st_size, status.st_nlink),
            *(status.st_mtime_ns, status.st_ctime_ns),
        )
    return found


def _walk(root: str) -> Iterator[str]:
    yield root
    for folder, folders, files in os.walk(root):
        yield from (os.path.join(folder, name) for name in sorted([*folders, *files]))


def _seen(path: str) -> Seen:
    status = os.lstat(path)
    link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
    data = Path(path).read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return Seen(status.st_mode, status.st_mtime_ns, link, data)


# Random cases


@dataclass(frozen=True, kw_only=True)
class GraftCase:
    """One graft of a random overlay."""

    shard: str
    donor: str
    patterns: list[str] | None
    """None: the donor's shard of that name is taken whole."""
    tensors: list[Tensor]
    """What it adds."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A random base, donors and an overlay in mode add."""

    base: Checkpoint
    donors: Mapping[str, Checkpoint]
    grafts: list[GraftCase]
    files: Mapping[str, bytes]
    """Sidecars that the manifest brings along."""

    @property
    def added(self) -> dict[str, str]:
        """Tensor to shard, for everything that the overlay declares."""
        return {entry.name: graft.shard for graft in self.grafts for entry in graft.tensors}

    @property
    def added_bytes(self) -> int:
        return sum(len(entry.data) for graft in self.grafts for entry in graft.tensors)

    @property
    def base_names(self) -> dict[str, str]:
        """The base's shards with the names that they must have in the target."""
        if self.base.index is None and self.grafts:
            return {SINGLE: f"model-00001-of-{len(self.grafts) + 1:05d}.safetensors"}
        return {shard: shard for shard in self.base.shards}

    @property
    def weight_map(self) -> dict[str, str]:
        """What the result must map."""
        base = {name: self.base_names[shard] for name, shard in self.base.weight_map.items()}
        return {**base, **self.added}

    def write(self, root: str | Path) -> Path:
        """``base``, the donors, the files and ``overlay.yaml`` in `root`, with relative references."""
        folder = Path(root)
        self.base.write(folder / "base")
        for name, checkpoint in self.donors.items():
            checkpoint.write(folder / name)
        write_files(folder / "extra", self.files)
        path = folder / "overlay.yaml"
        path.write_text(self.manifest)
        return path

    @property
    def manifest(self) -> str:
        grafts = []
        for graft in self.grafts:
            entry: dict[str, Any] = {"shard": graft.shard, "from": graft.donor}
            if graft.patterns is not None:
                entry["tensors"] = graft.patterns
            entry["expect"] = {"tensors": len(graft.tensors), "bytes": sum(len(t.data) for t in graft.tensors)}
            grafts.append(entry)
        return manifest_text(
            donors={name: name for name in self.donors},
            grafts=grafts,
            files={name: {"from": f"extra/{name}"} for name in self.files},
        )


_WORDS = st.sampled_from(["norm", "proj", "mlp", "eh_proj", "scale", "größe", 'a"b', "back\\slash", "with space"])
_DTYPES = st.sampled_from(sorted(WIDTHS))
_SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@st.composite
def tensors(draw: st.DrawFn, prefix: str, least: int = 1, most: int = 5) -> list[Tensor]:
    """Tensors below `prefix`, each name once."""
    names = draw(st.lists(st.tuples(_WORDS, st.integers(0, 9)), min_size=least, max_size=most, unique=True))
    return [tensor(f"{prefix}{word}.{number}", draw(_DTYPES), draw(_SHAPES)) for word, number in names]


index_styles: st.SearchStrategy[IndexStyle] = st.builds(
    IndexStyle,
    indent=st.sampled_from([None, 0, 2, 4]),
    newline=st.booleans(),
    metadata_first=st.booleans(),
    parameters=st.booleans(),
    extra=st.dictionaries(
        st.sampled_from(["format", "note", "mapika.tool"]),
        st.one_of(st.text(max_size=5), st.integers(0, 99), st.just({"a": [1, "}"]})),
        max_size=2,
    ),
)
_METADATA = st.none() | st.fixed_dictionaries({"format": st.just("pt")}, optional={"note": st.text(max_size=4)})
_OWN_SIDECARS = st.dictionaries(
    st.sampled_from(["tokenizer.json", "generation_config.json", "vocab.txt", "additional_chat_templates/x.jinja"]),
    st.sampled_from([b"{}", b"[1, 2]\n", b'{"a": "\xc3\xa9"}']),
    max_size=3,
).map(lambda own: {**SIDECARS, **own})


@st.composite
def bases(draw: st.DrawFn) -> Checkpoint:
    """A sharded checkpoint in any hand, or a single file."""
    details: dict[str, Any] = {"metadata": draw(_METADATA), "pad": draw(st.booleans()), "sidecars": draw(_OWN_SIDECARS)}
    if draw(st.integers(0, 4)) == 0:
        return Checkpoint(shards={SINGLE: draw(tensors("model.layers.0."))}, index=None, **details)
    count = draw(st.integers(1, 4))
    stem = draw(st.sampled_from(["model", "weights", "m-0"]))
    names = draw(st.permutations([f"{stem}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]))
    shards = {name: draw(tensors(f"model.layers.{number}.")) for number, name in enumerate(names)}
    return Checkpoint(shards=shards, index=draw(index_styles), **details)


@st.composite
def overlays(draw: st.DrawFn, *, least: int = 0) -> Case:
    """A base, donors, and at least `least` grafts in mode add."""
    base = draw(bases())
    count = draw(st.integers(least, 3))
    donors: dict[str, Checkpoint] = {}
    grafts = []
    for number in range(count):
        name = f"donor-{number}"
        grafted, donors[name] = draw(_donors(base, number))
        grafts.append(replace(grafted, donor=name))
    files = draw(
        st.dictionaries(st.sampled_from(["chat_template.jinja", "new.json", "sub/deep.txt"]), st.just(b"{}\n"))
    )
    return Case(base=base, donors=donors, grafts=grafts, files=files)


@st.composite
def _donors(draw: st.DrawFn, base: Checkpoint, number: int) -> tuple[GraftCase, Checkpoint]:
    """A donor that shares tensors with `base`, and a graft that takes others from it."""
    prefix = f"draft.{number}."
    wanted = draw(tensors(prefix))
    shard = f"graft-{number}.safetensors"
    shared = base.tensors[: draw(st.integers(0, 3))]
    if draw(st.booleans()):
        shards = {shard: wanted, "rest.safetensors": [*shared, tensor("unused")]}
        patterns = None
    else:
        pool = draw(st.permutations([*wanted, *shared, tensor("unused.weight")]))
        cut = draw(st.integers(1, len(pool) - 1))
        shards = {"b.safetensors": pool[:cut], "a.safetensors": pool[cut:]}
        literal = [entry.name for entry in wanted]
        patterns = draw(st.sampled_from([[f"{prefix}**"], [f"draft.{number}.*.*"], literal]))
    graft = GraftCase(shard=shard, donor="", patterns=patterns, tensors=wanted)
    return graft, Checkpoint(shards=shards, metadata=draw(_METADATA), sidecars={}, index=draw(index_styles))
