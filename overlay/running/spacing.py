"""Spacing: does a plan fit on the target's file system?  Asked before anything is staged."""

from __future__ import annotations

import os
from collections.abc import Iterable

from overlay.core.checkpoint import FileSeen
from overlay.core.parts import BuiltShard, LinkedShard, TrimmedShard
from overlay.core.planning import Action, Plan
from overlay.errors import EnvironmentFault
from overlay.storage.hub_cache import cache_root


def require_space(plan: Plan) -> None:
    """Refuse before staging what cannot fit.

    Raises:
        EnvironmentFault: too few bytes or inodes on the target's file system.
    """
    parent = os.path.dirname(plan.target)
    status = os.statvfs(parent)
    free = status.f_bavail * status.f_frsize
    wanted = sum(_space_for(action, plan.link_mode) for action in plan.actions)
    if wanted > free:
        raise EnvironmentFault(
            f"expected {wanted} bytes of free space, found {free}",
            subject=parent,
            hint="free space or choose a target on another file system",
        )
    needed = len(plan.actions) + 3  # the stage, the state folder and the receipt
    if status.f_files and needed > status.f_favail:
        raise EnvironmentFault(
            f"expected {needed} free inodes, found {status.f_favail}",
            subject=parent,
            hint="remove files or choose a target on another file system",
        )


def require_space_for(files: Iterable[FileSeen]) -> None:
    """Refuse to fetch what the file system of the Hub's cache cannot hold.

    Raises:
        EnvironmentFault: too few bytes.
    """
    folder = os.path.abspath(cache_root())
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    status = os.statvfs(folder)
    wanted, free = sum(file.size for file in files), status.f_bavail * status.f_frsize
    if wanted > free:
        raise EnvironmentFault(
            f"expected {wanted} bytes of free space for what is to be fetched, found {free}",
            subject=cache_root(),
            hint="free space, or put the Hub's cache on another file system with HF_HOME",
        )


def _space_for(action: Action, link_mode: str) -> int:
    """Bytes that an action takes at most: holes of a source stay holes, so that no more than its blocks are written."""
    part = action.part
    if isinstance(part, LinkedShard):
        return min(action.size, _allocated([part.shard.file])) if link_mode == "copy" else 0
    if isinstance(part, TrimmedShard):
        return min(action.size, part.header_bytes + _allocated([part.shard.file]))
    if isinstance(part, BuiltShard) and part.recipe is None:
        files = {source.file.location: source.file for source in part.sources}
        return min(action.size, len(part.header) + _allocated(files.values()))
    return action.size


def _allocated(files: Iterable[FileSeen]) -> int:
    """Bytes of disk that files take; 512 is the unit of ``st_blocks``, whatever the file system's blocks are."""
    return sum(file.size if file.is_remote else os.stat(file.location).st_blocks * 512 for file in files)
