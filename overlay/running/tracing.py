"""Tracing: read a tensor's bytes, and whatever says where it came from: its receipt, a lock, the base behind the target."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from overlay.core.checkpoint import Checkpoint, Shard, TensorSource
from overlay.core.progress import Reporter
from overlay.core.schemes import decide, scheme_of
from overlay.core.tracing import Held, Origin, Trace, find_partners, find_tensor, form_of, held, held_in
from overlay.errors import EnvironmentFault, InvalidInput, OverlayError
from overlay.formats.digest import sha256_of
from overlay.formats.header import HeaderProblem
from overlay.formats.lock import MAX_LOCK_BYTES, Lock, LockedTensor, LockProblems, parse_lock
from overlay.formats.names import REPOSITORY_MANIFEST, lock_path
from overlay.formats.receipt import PlacedFile, Receipt
from overlay.running.inspecting import open_reference, read_configs
from overlay.running.locating import Places, open_checkpoint
from overlay.storage.files import read_document
from overlay.storage.local import file_at
from overlay.storage.range_hashing import sha256_of_range
from overlay.storage.seen import read_header
from overlay.storage.stores import is_file, path_here
from overlay.storage.targets import read_receipt


def trace_tensor(tensor: str, reference: str, lock: str, places: Places, reporter: Reporter) -> Trace:
    """Where `tensor` of the checkpoint `reference` lies, its digest, and where it came from.

    Args:
        tensor: its name.
        reference: a checkpoint, a target or a single shard.
        lock: the lock (or the manifest beside it) that the target was assembled with; "" where nobody names one.
        places: where things are on this machine.
        reporter: told of the bytes that are read.

    Raises:
        InvalidInput: no checkpoint, no such tensor, or a malformed lock.
        EnvironmentFault: something cannot be read.
    """
    seen = open_reference(reference, places)
    receipt, problem = read_receipt(seen.root)
    if receipt is not None and tensor not in seen.weight_map:
        _refuse_left_out(seen, receipt, tensor, places)
    at, also_in = find_tensor(seen, tensor)
    origin = _origin(seen, at, receipt, lock, places)
    if problem:
        origin = replace(origin, notes=(f"the receipt cannot be used: {problem}", *origin.notes))
    partners = find_partners(seen, tensor)
    config, _, _ = read_configs(seen)
    bits = frozenset(config.quantization.bits) if config and config.quantization else frozenset[int]()
    with reporter.task("hashing", at.end - at.begin) as advance:
        digest = sha256_of_range(at, advance)
    return Trace(
        tensor=tensor,
        checkpoint=reference,
        at=at,
        sha256=digest,
        module=tensor.rpartition(".")[0],
        scheme=decide(scheme_of(form_of(partners)), bits),
        partners=tuple(partner for partner in partners if partner.name != tensor),
        also_in=also_in,
        origin=origin,
    )


def _origin(seen: Checkpoint, at: TensorSource, receipt: Receipt | None, lock: str, places: Places) -> Origin:
    link = at.file.location if at.file.via_link else ""
    commit = seen.commit or ""
    placed = receipt.files.get(at.file.name) if receipt is not None else None
    if receipt is None:
        beside = os.path.join(seen.root, lock_path(REPOSITORY_MANIFEST))
        lock = lock or (beside if is_file(beside) else "")
        if lock:  # a repository that was built: its lock says what its shards are made of
            return _donated(Origin(kind="graft", link=link, commit=commit), at, None, lock, [])
    if receipt is None or placed is None:
        foreign = ("overlay did not place this shard: overlay status says more",) if receipt is not None else ()
        return Origin(kind="checkpoint", link=link, commit=commit, notes=foreign)
    notes = list(_changes(seen, at, placed))
    origin = Origin(
        kind="graft" if placed.origin == "graft" else "base",
        how=placed.how,
        link=link,
        source=_in_file(placed.source, at.file.name, at.name) if placed.source else None,
    )
    if placed.origin != "graft":
        return replace(origin, notes=tuple(notes))
    superseded, note = _in_base(receipt, at.name, places)
    origin = replace(origin, superseded=superseded)
    notes += [note] if note else []
    return _donated(origin, at, receipt, lock, notes)


def _changes(seen: Checkpoint, at: TensorSource, placed: PlacedFile) -> Iterator[str]:
    if placed.header_sha256 not in (None, seen.shards[at.file.name].header.digest):
        yield f"the header of {at.file.name} is not the one that the receipt says: overlay status {seen.label}"


def _donated(origin: Origin, at: TensorSource, receipt: Receipt | None, lock: str, notes: list[str]) -> Origin:
    """`origin` with what the lock says of the donor."""
    if not lock:
        if origin.source is None:
            notes.append("the receipt does not say which bytes of the donor it is made of: --lock NAME.lock.json does")
        return replace(origin, notes=tuple(notes))
    parsed, digest = _read_lock(lock)
    if receipt is not None and digest != receipt.lock_sha256:
        notes.append(f"{lock} is not the lock that the target was assembled with")
    graft = parsed.grafts.get(at.file.name)
    entry = graft.tensors.get(at.name) if graft is not None else None
    if graft is None or entry is None:
        origin = origin if receipt is not None else replace(origin, kind="checkpoint")
        return replace(origin, notes=(*notes, f"{lock} does not name this tensor among the grafts"))
    donor = parsed.donors.get(graft.donor)
    commit = f" at commit {donor.commit}" if donor is not None and donor.commit else ""
    return replace(
        origin,
        donor=graft.donor,
        reference=f"{donor.reference}{commit}" if donor is not None else "",
        donated=_held(entry),
        steps=tuple(entry.steps),
        inputs=tuple(Held(i.file, i.begin, i.end, "", ()) for i in entry.inputs),
        notes=tuple(notes),
    )


def _held(entry: LockedTensor) -> Held | None:
    """Where a copied tensor lies in the donor; None for one that was computed."""
    if entry.file is None or entry.begin is None or entry.end is None:
        return None
    return Held(entry.file, entry.begin, entry.end, entry.dtype, tuple(entry.shape))


def _refuse_left_out(seen: Checkpoint, receipt: Receipt, tensor: str, places: Places) -> None:
    """Refuse a tensor that the base has and the target has not, with the base's shard as the hint."""
    found, _ = _in_base(receipt, tensor, places)
    if found is not None:
        raise InvalidInput(
            "expected a tensor of this target, found one of its base that the overlay leaves out",
            subject=f"{seen.label}: {tensor}",
            hint=f"the base holds it in {found.file}",
        )


def _in_base(receipt: Receipt, tensor: str, places: Places) -> tuple[Held | None, str]:
    """The base's own tensor of this name, and a word where it is not known whether there is one.

    A receipt does not list what was superseded, but it names the base's shards: one that was trimmed leads to the tensors
    that are gone.  A shard that was superseded whole left no trace; the base's own index names it.
    """
    for name, placed in receipt.files.items():
        if placed.how == "trim" and placed.source:
            found = _in_file(placed.source, name, tensor)
            if found is not None:
                return found, ""
    base = _base_of(receipt, places)
    if base is None:
        return None, "whether the base has a tensor of this name is not known: the receipt does not name its folder"
    with suppress(InvalidInput):
        source, _ = find_tensor(base, tensor)
        return held(source), ""
    return None, ""


def _base_of(receipt: Receipt, places: Places) -> Checkpoint | None:
    """The base, where the receipt leads to its folder; a blob of the Hub cache bears no name that would."""
    folders = {
        os.path.dirname(placed.source)
        for name, placed in receipt.files.items()
        if placed.origin == "base" and placed.source and os.path.basename(placed.source) == name
    }
    if len(folders) != 1:
        return None
    folder = folders.pop()
    with suppress(OverlayError):
        return open_checkpoint(folder, folder, places, partial=True)
    return None


def _in_file(path: str, name: str, tensor: str) -> Held | None:
    """The tensor in the shard at `path`; None where the file is gone or no longer holds it."""
    with suppress(InvalidInput, EnvironmentFault, HeaderProblem, OSError):
        file = file_at(path, name)
        header = read_header(file)
        if tensor in header:
            return held(held_in(Shard(file, header), tensor))
    return None


def _read_lock(path: str) -> tuple[Lock, str]:
    """The lock at `path`, or beside the manifest at `path`, and the digest of its text."""
    beside = path if path.endswith(".json") else lock_path(path)
    data = read_document(path_here(beside), MAX_LOCK_BYTES, "lock")
    try:
        return parse_lock(data), sha256_of(data)
    except LockProblems as problems:
        first, *others = problems.lines
        hint = "name the lock that overlay lock wrote"
        raise InvalidInput(first, subject=beside, hint=hint, others=tuple(others)) from None
