"""What the variants are made of: the good directory, and small changes of the draft layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from tests.engines.real.bases import Base
from tests.engines.real.trees import Tree
from tests.support.checkpoints import Tensor

Change = Callable[[tuple[Tensor, ...]], Iterable[Tensor]]


def assembled(base: Base, change: Change = tuple, *, shard: str = "", scheme: str = "") -> Tree:
    """The base with its draft layer in one shard more, in the base's own scheme.

    Args:
        base: Base and draft layer.
        change: What is done to the layer's tensors first.
        shard: Another name than the one after the base's last shard.
        scheme: Another scheme for the draft layer.
    """
    return base.tree.add(shard or base.graft, change(base.drafted(scheme or base.scheme)))


def without(*parts: str) -> Change:
    """Takes out the tensors whose names contain one of `parts`."""
    return lambda tensors: (tensor for tensor in tensors if not any(part in tensor.name for part in parts))


def on(part: str, change: Callable[[Tensor], Iterable[Tensor]]) -> Change:
    """Changes the tensors whose names contain `part`."""

    def apply(tensors: tuple[Tensor, ...]) -> Iterable[Tensor]:
        for tensor in tensors:
            yield from change(tensor) if part in tensor.name else (tensor,)

    return apply


def renamed(old: str, new: str) -> Change:
    """Replaces `old` by `new` in every name."""
    return lambda tensors: (tensor._replace(name=tensor.name.replace(old, new)) for tensor in tensors)


def plus(*extra: Tensor) -> Change:
    """Adds tensors."""
    return lambda tensors: (*tensors, *extra)


def cut_rows(tensor: Tensor, rows: int) -> Tensor:
    """The first `rows` rows."""
    return tensor._replace(
        shape=(rows, *tensor.shape[1:]), data=tensor.data[: len(tensor.data) * rows // tensor.shape[0]]
    )


def as_float32(tensor: Tensor) -> Tensor:
    """A bfloat16 tensor in float32, with the same values."""
    pairs = (tensor.data[at : at + 2] for at in range(0, len(tensor.data), 2))
    return tensor._replace(dtype="F32", data=b"".join(b"\0\0" + pair for pair in pairs))


def also_in(tree: Tree, shard: str, *tensors: Tensor) -> Tree:
    """With `tensors` in a shard that exists besides, and the weight map as it was."""
    return replace(tree, shards={**tree.shards, shard: (*tree.tensors(shard), *tensors)})


def first_shard(base: Base) -> str:
    """The base's first shard."""
    return min(base.tree.shards)
