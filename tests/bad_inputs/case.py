"""A case: a world, a damage, a command, and what the command must say.  And the small words that damages are made of."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.bad_inputs.world import Damage, World

Edit = Callable[[Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One bad (or, in the group control, good) input."""

    group: str
    what: str
    """The damage, in words; together with the group it is the name of the test."""
    damage: Damage
    run: str
    """The command, as typed in the world's folder after ``overlay``."""
    exit: int
    says: tuple[str, ...] = ()
    """Words that stand together on one line of the output: file, key, what was found."""
    before: tuple[str, ...] = ()
    """Commands that succeed before the damage is done."""
    process: bool = False
    """Run as a process of its own rather than in this one."""
    writes: bool = False
    """The command succeeds and may change the world."""
    seconds: float = 20

    @property
    def id(self) -> str:
        return f"{self.group}: {self.what}: {shlex.split(self.run)[0]}"


def nothing(world: World) -> None:
    del world


def all_of(*damages: Damage) -> Damage:
    def act(world: World) -> None:
        for damage in damages:
            damage(world)

    return act


def write(name: str, data: bytes | str) -> Damage:
    def act(world: World) -> None:
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        (world / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return act


def append(name: str, data: bytes | str) -> Damage:
    def act(world: World) -> None:
        with (world / name).open("ab") as stream:
            stream.write(data if isinstance(data, bytes) else data.encode())

    return act


def replace(name: str, old: str, new: str) -> Damage:
    def act(world: World) -> None:
        text = (world / name).read_text()
        assert old in text, f"nothing to replace in {name}"
        (world / name).write_text(text.replace(old, new))

    return act


def cut(name: str, keep: float) -> Damage:
    """Keep the share `keep` of a file, or, when that is negative, drop so many bytes."""

    def act(world: World) -> None:
        size = (world / name).stat().st_size
        os.truncate(world / name, size + int(keep) if keep < 0 else int(size * keep))

    return act


def double(name: str) -> Damage:
    return lambda world: append(name, (world / name).read_bytes())(world)


def flip(name: str, at: int) -> Damage:
    """Flip one bit and set size and mtime back to what they were."""

    def act(world: World) -> None:
        path = world / name
        before = path.stat()
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return act


def edit(name: str, change: Edit) -> Damage:
    """Load JSON, let `change` alter it in place, write it back."""

    def act(world: World) -> None:
        value = json.loads((world / name).read_bytes())
        change(value)
        (world / name).write_text(json.dumps(value, indent=2))

    return act


def remove(name: str) -> Damage:
    return lambda world: (world / name).unlink()


def instead(name: str, make: Callable[[str], object]) -> Damage:
    """Put something else in the place of a file: `make` gets its path."""

    def act(world: World) -> None:
        (world / name).unlink(missing_ok=True)
        make(str(world / name))

    return act


def folder(name: str) -> Damage:
    return instead(name, os.mkdir)


def fifo(name: str) -> Damage:
    return instead(name, os.mkfifo)


def link(name: str, to: str) -> Damage:
    """A link; ``{root}`` in `to` is the world's folder."""

    def act(world: World) -> None:
        (world / name).unlink(missing_ok=True)
        (world / name).symlink_to(to.format(root=world.root))

    return act
