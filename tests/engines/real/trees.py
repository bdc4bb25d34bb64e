"""A checkpoint directory on paper, which a variant changes and a test writes.

A tree holds its shards as tensors, or as files that exist already and are only linked, so that hundreds of directories of
a few megabytes cost little more than one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.checkpoints import INDEX, Tensor, read_shard, shard_bytes

FORMAT = {"format": "pt"}


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What lies in a directory.  Shards that no entry of the weight map names are there all the same."""

    shards: Mapping[str, Path | tuple[Tensor, ...] | bytes]
    """A file that exists, tensors, or the very bytes."""
    weight_map: Mapping[str, str] | None
    """None: no index."""
    metadata: object
    """The index's; `LEFT_OUT`: the key is not there."""
    config: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    """Names of symbolic links, and where they lead.  A link in place of a shard of that name leads to it if empty."""
    header: Mapping[str, str] | None = field(default_factory=lambda: FORMAT)
    """``__metadata__`` of the shards that are written."""

    def tensors(self, shard: str) -> tuple[Tensor, ...]:
        """The tensors of one shard."""
        held = self.shards[shard]
        assert not isinstance(held, bytes)
        return tuple(read_shard(held).values()) if isinstance(held, Path) else held

    def find(self, name: str) -> Tensor:
        """The tensor that the weight map means by `name`."""
        assert self.weight_map is not None
        return next(held for held in self.tensors(self.weight_map[name]) if held.name == name)

    def add(self, shard: str, tensors: Iterable[Tensor], *, listed: bool = True) -> Tree:
        """With one shard more; `listed`: the weight map sends the names there."""
        held = tuple(tensors)
        names = dict.fromkeys((entry.name for entry in held), shard) if listed else {}
        weight_map = None if self.weight_map is None else {**self.weight_map, **names}
        return replace(self, shards={**self.shards, shard: held}, weight_map=weight_map)

    def edit(self, shard: str, change: Callable[[tuple[Tensor, ...]], Iterable[Tensor]]) -> Tree:
        """With other tensors in one shard; the weight map follows."""
        before = self.tensors(shard)
        after = tuple(change(before))
        assert self.weight_map is not None
        gone = {entry.name for entry in before} - {entry.name for entry in after}
        weight_map = {name: where for name, where in self.weight_map.items() if name not in gone}
        weight_map |= dict.fromkeys((entry.name for entry in after if entry.name not in weight_map), shard)
        return replace(self, shards={**self.shards, shard: after}, weight_map=weight_map)

    def name(self, mapping: Mapping[str, str]) -> Tree:
        """With entries of the weight map changed or added."""
        assert self.weight_map is not None
        return replace(self, weight_map={**self.weight_map, **mapping})

    def configure(self, **changes: Any) -> Tree:
        """With keys of ``config.json`` changed; None takes the key out."""
        config = {**self.config, **changes}
        return replace(self, config={key: value for key, value in config.items() if value is not None})

    def write(self, folder: Path) -> Path:
        """Write it into the new folder `folder`."""
        folder.mkdir(parents=True)
        for name, held in self.shards.items():
            self._place(folder, name, held)
        for name, leads in self.links.items():
            if leads:
                (folder / name).symlink_to(leads)
        for name, data in self._sidecars().items():
            _write(folder / name, data)
        return folder

    def _place(self, folder: Path, name: str, held: Path | tuple[Tensor, ...] | bytes) -> None:
        linked = name in self.links and not self.links[name]
        path = folder.with_name(f"{folder.name}.blobs") / name.replace("/", "-") if linked else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(held, Path):
            os.link(held, path)
        else:
            path.write_bytes(held if isinstance(held, bytes) else shard_bytes(list(held), self.header))
        if linked:
            (folder / name).symlink_to(os.path.relpath(path, folder))

    def _sidecars(self) -> dict[str, bytes]:
        sidecars = {"config.json": json.dumps(self.config, indent=2).encode(), **self.files}
        if self.weight_map is not None:
            metadata = {} if self.metadata is LEFT_OUT else {"metadata": self.metadata}
            document = {**metadata, "weight_map": dict(sorted(self.weight_map.items()))}
            sidecars[INDEX] = json.dumps(document, indent=2).encode()
        return sidecars


LEFT_OUT = object()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
