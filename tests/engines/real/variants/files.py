"""Files, links and the index: what a directory can look like around the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tests.engines.real.bases import Base, bf16, other_values
from tests.engines.real.trees import LEFT_OUT, Tree
from tests.engines.real.variants.assembling import also_in, assembled, first_shard, renamed, without
from tests.support.checkpoints import Tensor, shard_bytes

EH = "eh_proj.weight"


def single_file(base: Base) -> Tree:
    tree = assembled(base)
    tensors = [tensor for shard in tree.shards for tensor in tree.tensors(shard)]
    return replace(tree, shards={"model.safetensors": tuple(tensors)}, weight_map=None)


def in_two_shards(base: Base) -> Tree:
    draft = base.drafted(base.scheme)
    return base.tree.add("graft-2.safetensors", draft[:9]).add("graft-10.safetensors", draft[9:])


def mapped_to_another_listed_shard(base: Base) -> Tree:
    return assembled(base).name({base.family.prefix + EH: first_shard(base)})


def unmapped_name(base: Base) -> Tree:
    tree = assembled(base)
    assert tree.weight_map is not None
    return replace(tree, weight_map={n: s for n, s in tree.weight_map.items() if n != base.family.prefix + EH})


def unmapped_graft(base: Base) -> Tree:
    return base.tree.add(base.graft, base.drafted(base.scheme), listed=False)


def stale(base: Base, shard: str, name: str) -> Tree:
    """Besides the tensor that the map means, a copy of other values lies in `shard`, which the index names too."""
    tree = assembled(base)
    return also_in(tree, shard, other_values(tree.find(name)))


def two_shards(base: Base, meant: str, other: str) -> Tree:
    """Two copies of eh_proj in two listed shards; the map means the one in `meant`."""
    draft = {tensor.name: tensor for tensor in base.drafted(base.scheme)}
    mine = draft.pop(base.family.prefix + EH)
    first, *rest = draft.values()
    tree = base.tree.add(base.graft, rest).add(meant, [mine]).add(other, [first])
    return also_in(tree, other, other_values(mine))


def equal_duplicate(base: Base) -> Tree:
    tree = assembled(base)
    return also_in(tree, first_shard(base), tree.find(base.family.prefix + EH))


def stray_shard(base: Base) -> Tree:
    """A shard that the index does not name holds other values under the draft layer's names."""
    others = [other_values(tensor) for tensor in base.drafted(base.scheme)]
    return assembled(base).add("zz-stray.safetensors", others, listed=False)


def stray_head(base: Base) -> Tree:
    head = base.tree.find("lm_head.weight")
    return assembled(base).add("zz-stray.safetensors", [other_values(head)], listed=False)


def whole_file_beside_index(base: Base) -> Tree:
    """A small model.safetensors beside an index that does not name it."""
    norm = base.tree.find("model.norm.weight")
    return assembled(base).add("model.safetensors", [norm], listed=False)


def consolidated(base: Base, name: str) -> Tree:
    norm = base.tree.find("model.norm.weight")
    return assembled(base).add(name, [norm], listed=False)


def missing_base_shard(base: Base) -> Tree:
    return drop_file(assembled(base), sorted(base.tree.shards)[1])


def drop_file(tree: Tree, shard: str) -> Tree:
    return replace(tree, shards={name: held for name, held in tree.shards.items() if name != shard})


def dangling(base: Base, shard: str) -> Tree:
    tree = drop_file(assembled(base), shard)
    return replace(tree, links={shard: "../gone.safetensors"})


def linked(base: Base) -> Tree:
    tree = assembled(base)
    return replace(tree, links=dict.fromkeys(tree.shards, ""))


def relabelled(base: Base, value: str, place: str) -> Tree:
    """The graft lies at `place`, and the index calls it `value`."""
    tree = assembled(base, shard=place)
    assert tree.weight_map is not None
    return replace(tree, weight_map={n: value if s == place else s for n, s in tree.weight_map.items()})


def graft_bytes(base: Base, change: Callable[[bytes], bytes]) -> Tree:
    tree = assembled(base)
    data = shard_bytes(list(tree.tensors(base.graft)), {"format": "pt"})
    return replace(tree, shards={**tree.shards, base.graft: change(data)})


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 19905841664\n"


def empty_tensor(base: Base) -> Tree:
    """A tensor of no elements under a name that no model asks for, outside every layer."""
    return assembled(base).add("zz.safetensors", [Tensor("notes.empty", "BF16", (0,), b"")])


VARIANTS: Mapping[str, Callable[[Base], Tree]] = {
    "assembled": assembled,
    "links to blobs": linked,
    "graft under a free name": lambda base: assembled(base, shard="mtp-layer.safetensors"),
    "graft in two shards": in_two_shards,
    "one file without an index": single_file,
    "shards without an index": lambda base: replace(assembled(base), weight_map=None),
    "no __metadata__ in the headers": lambda base: replace(assembled(base), header=None),
    "index metadata empty": lambda base: replace(assembled(base), metadata={}),
    "index metadata null": lambda base: replace(assembled(base), metadata=None),
    "index metadata missing": lambda base: replace(assembled(base), metadata=LEFT_OUT),
    "total_size wrong": lambda base: replace(assembled(base), metadata={"total_size": 1}),
    "mapped to another listed shard": mapped_to_another_listed_shard,
    "a name missing from the map": unmapped_name,
    "graft not in the index": unmapped_graft,
    "graft as mtp.safetensors not in the index": lambda base: base.tree.add(
        "mtp.safetensors", base.drafted(base.scheme), listed=False
    ),
    "phantom in the draft layer": lambda base: assembled(base, without(EH)).name({base.family.prefix + EH: base.graft}),
    "phantom nobody needs": lambda base: assembled(base).name({"notes.weight": base.graft}),
    "phantom layer": lambda base: base.tree.name(
        {tensor.name: first_shard(base) for tensor in base.drafted(base.scheme)}
    ),
    "stale copy in an earlier shard": lambda base: stale(base, first_shard(base), base.family.prefix + EH),
    "stale copy in a later shard": lambda base: two_shards(base, "zz-1.safetensors", "zz-2.safetensors"),
    "stale copy of a base tensor in the graft": lambda base: stale(base, base.graft, "model.norm.weight"),
    "equal copy in an earlier shard": equal_duplicate,
    "the last in natural order is meant": lambda base: two_shards(base, "zz-10.safetensors", "zz-2.safetensors"),
    "the last in plain order is meant": lambda base: two_shards(base, "zz-2.safetensors", "zz-10.safetensors"),
    "stray shard with other values": stray_shard,
    "stray shard with another lm_head": stray_head,
    "model.safetensors beside the index": whole_file_beside_index,
    "consolidated file": lambda base: consolidated(base, "consolidated.safetensors"),
    "consolidated file in a folder": lambda base: consolidated(base, "original/consolidated.00.safetensors"),
    "graft listed and missing": lambda base: drop_file(assembled(base), base.graft),
    "base shard missing": missing_base_shard,
    "graft a dangling link": lambda base: dangling(base, base.graft),
    "stray dangling link": lambda base: replace(assembled(base), links={"zz.safetensors": "../gone.safetensors"}),
    "graft in a folder": lambda base: relabelled(base, "mtp/graft.safetensors", "mtp/graft.safetensors"),
    "graft with ./": lambda base: relabelled(base, f"./{base.graft}", base.graft),
    "graft truncated": lambda base: graft_bytes(base, lambda data: data[:-100]),
    "graft with bytes behind": lambda base: graft_bytes(base, lambda data: data + b"\0" * 8),
    "graft empty": lambda base: graft_bytes(base, lambda data: b""),
    "graft an LFS pointer": lambda base: graft_bytes(base, lambda data: POINTER),
    "tensor of no elements": empty_tensor,
    "tensor outside every layer": lambda base: assembled(base).add("zz.safetensors", [bf16("notes.weight", (4,))]),
    "layer number too high": lambda base: assembled(
        base, renamed(base.family.prefix, f"model.layers.{base.family.layers + 1}.")
    ),
    "layer without model.": lambda base: assembled(base, renamed("model.layers.", "layers.")),
    "layer under mtp.": lambda base: assembled(base, renamed(base.family.prefix, "mtp.layers.0.")),
}
