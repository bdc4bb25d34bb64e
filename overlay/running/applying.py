"""Applying: carry a plan out, and return the receipt of what was done.

Everything is staged beside the target, checked there, and put in place by one rename (`storage.staging`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from overlay.core.checkpoint import FileSeen
from overlay.core.generations import Generation, next_number
from overlay.core.parts import BuiltShard, CopiedFile, LinkedShard, PatchedFile, TrimmedShard
from overlay.core.planning import Action, Plan, recipe_digest
from overlay.core.progress import Advance, Reporter
from overlay.core.target import TargetSeen
from overlay.core.trimming import header_of
from overlay.errors import Conflict, EnvironmentFault, Mismatch
from overlay.formats.digest import Digests, sha256_of
from overlay.formats.lock import Lock
from overlay.formats.names import RECEIPT_NAME
from overlay.formats.receipt import Origin, PlacedFile, Proof, Receipt, render_receipt
from overlay.running.fetching import fetch_graft, fetch_inputs, lies_elsewhere
from overlay.running.proving import Proofs
from overlay.running.spacing import require_space
from overlay.storage.drafts import Drafts
from overlay.storage.files import hint_for_errno
from overlay.storage.generations import read_generations
from overlay.storage.hashing import hash_file
from overlay.storage.linking import LinkMode, flush, place
from overlay.storage.local import file_at
from overlay.storage.proofs import Memory, ProofStore, settle
from overlay.storage.seen import read_file, read_header
from overlay.storage.shard_writer import WrittenShard, write_shard, write_trimmed
from overlay.storage.staging import Stage, remove_abandoned, staged
from overlay.storage.targets import look_at_target

_AGAIN = "run the command again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What the receipt records of manifest and lock."""

    manifest_sha256: str
    lock: Lock | None
    lock_sha256: str | None


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying did."""

    receipt: Receipt
    changed: bool
    """False: the target was already what the plan describes."""
    notes: tuple[str, ...] = ()
    """What a person should know."""

    @property
    def unproven(self) -> list[str]:
        """Files whose bytes nobody compared with anything on this machine."""
        return sorted(name for name, placed in self.receipt.files.items() if placed.proof == "unproven")

    @property
    def unpinned_trims(self) -> list[str]:
        """Trimmed shards of which no lock says what they must be, so that verifying them compares nothing."""
        files = self.receipt.files
        return [name for name in self.unproven if files[name].how == "trim" and files[name].sha256 is None]


def apply_plan(plan: Plan, target: TargetSeen, proofs: Proofs, pins: Pins, reporter: Reporter) -> Applied:
    """Make the target what `plan` says.

    Raises:
        Conflict: an input changed while the plan was carried out, or another run is at this target.
        Mismatch: the bytes of a donor are not what the lock pins.
        EnvironmentFault: no space, no permission, or the file system cannot do what was asked.
    """
    if not plan.actions:
        assert target.receipt is not None  # a plan is empty only against a receipt
        remove_abandoned(plan.target)
        return Applied(target.receipt, changed=False)
    require_space(plan)
    with staged(plan.target) as stage:
        _require_unmoved(target)
        known = read_generations(plan.target)
        work = _Work(plan, known, proofs, pins, ProofStore(), reporter)
        with work.drafts.kept_for_another_build(), reporter.task("assembling", plan.bytes_to_write) as advance:
            files = {action.name: work.carry_out(action, stage, advance) for action in plan.actions}
        receipt = Receipt(
            name=plan.name,
            manifest_sha256=pins.manifest_sha256,
            lock_sha256=pins.lock_sha256,
            state=plan.state,
            generation=_number(plan, target, known),
            replaced=_replaced(plan, target),
            tensors=plan.tensors,
            total_size=plan.total_size,
            files=files,
        )
        _recheck(stage, receipt, lambda count: None)
        stage.write(RECEIPT_NAME, render_receipt(receipt))  # last: a tree without it is nobody's
        _require_unmoved(target)  # somebody without our lock may have put files there while the stage was filled
        stage.commit()
    work.drafts.remove()
    work.remember_built()
    return Applied(receipt, changed=True, notes=plan.notes)


class _Work:
    """The actions of one plan, each returning what it did."""

    def __init__(
        self,
        plan: Plan,
        known: Sequence[Generation],
        proofs: Proofs,
        pins: Pins,
        store: ProofStore,
        reporter: Reporter,
    ) -> None:
        self.drafts = Drafts(plan.target)
        """Where shards whose bytes come from elsewhere are made, so that the next run goes on with them."""
        self._reporter = reporter
        self._plan = plan
        self._known = sorted(known, key=lambda generation: (not generation.current, -generation.number))
        self._proofs = proofs
        self._pins = pins
        self._store = store
        self._built: dict[str, Digests] = {}
        self._unread: dict[str, str] = {}
        """Shards of the target's own that were made without being read, and their recipes."""

    def carry_out(self, action: Action, stage: Stage, advance: Advance) -> PlacedFile:
        part = action.part
        try:
            if isinstance(part, LinkedShard):
                return self._link(part, stage, advance)
            if isinstance(part, BuiltShard):
                return self._build(part, stage, advance)
            if isinstance(part, TrimmedShard):
                return self._trim(part, stage, advance)
            if isinstance(part, CopiedFile):
                return self._copy(part, stage, advance)
            return self._write(action, part, stage, advance)
        except OSError as error:
            problem = f"the system says: {error.strerror}"
            raise EnvironmentFault(problem, subject=action.name, hint=hint_for_errno(error.errno)) from None

    def remember_built(self) -> None:
        """Remember under their final place what was hashed while it was written, and what was made unread.

        The latter is hashed as soon as somebody touches it.
        """
        for name, digests in self._built.items():
            file = file_at(os.path.join(self._plan.target, name), name)
            settle(file)
            self._store.remember(file, digests)
        for name, recipe in self._unread.items():
            file = file_at(os.path.join(self._plan.target, name), name)
            settle(file)
            self._store.remember_recipe(file, recipe)

    def _link(self, part: LinkedShard, stage: Stage, advance: Advance) -> PlacedFile:
        file = part.shard.file
        flush(file)
        how = place(file, stage.path_of(part.name), _mode(self._plan.link_mode), advance)
        known = self._proofs.digests.get(file.location)
        if how == "hardlink" and known is not None:  # the new name moved ctime, not a byte
            self._store.remember(file_at(file.location, file.name), known)
        if how in ("copy", "reflink"):
            self._unread[part.name] = recipe_digest(part)
        return PlacedFile(
            how=how,
            origin=part.origin,
            source=file.location,
            size=file.size,
            sha256=known.sha256 if known else self._pinned(part) or file.stated_sha256 or None,
            header_sha256=part.header_sha256,
            proof=_proof(known is not None),
        )

    def _build(self, part: BuiltShard, stage: Stage, advance: Advance) -> PlacedFile:
        recipe = recipe_digest(part)
        digests = self._reuse(part.name, recipe, stage)
        if digests is None:
            written = self._make(part, stage.path_of(part.name), advance)
            self._require_pinned(part, written)
            digests = written.digests
        else:
            advance(part.size)
        self._built[part.name] = digests
        return PlacedFile(
            how="build",
            origin="graft",
            size=part.size,
            sha256=digests.sha256,
            header_sha256=part.header_sha256,
            recipe=recipe,
            proof="proven",
        )

    def _trim(self, part: TrimmedShard, stage: Stage, advance: Advance) -> PlacedFile:
        """Copy what stays of a shard inside the kernel, unread; only proving or a lock knows its digest."""
        recipe = recipe_digest(part)
        same = next((file for file, _ in self._made_before(recipe) if self._store.recipe_of(file) == recipe), None)
        if same is not None:
            self._share(same, stage.path_of(part.name))
            advance(part.size)
        else:
            path = stage.path_of(part.name)
            write_trimmed(path, header_of(part), part.shard.file, part.runs, advance)
        self._unread[part.name] = recipe
        known = self._proofs.trims.get(part.name)
        pinned = self._pins.lock.trims.get(part.name) if self._pins.lock is not None else None
        return PlacedFile(
            how="trim",
            origin=part.origin,
            source=part.shard.file.location,
            size=part.size,
            sha256=known.sha256 if known else pinned.sha256 if pinned is not None else None,
            header_sha256=part.header_sha256,
            recipe=recipe,
            proof=_proof(known is not None),
        )

    def _reuse(self, name: str, recipe: str, stage: Stage) -> Digests | None:
        """Take over a shard that was built from the same, by the target or by a kept generation, and not touched since."""
        for file, placed in self._made_before(recipe):
            memory, digests = self._store.recall(file)
            if memory is Memory.KNOWN and digests is not None and digests.sha256 == placed.sha256:
                self._share(file, stage.path_of(name))
                return digests
        return None

    def _made_before(self, recipe: str) -> Iterator[tuple[FileSeen, PlacedFile]]:
        """Shards of the target and of its kept generations that were made from the same."""
        for generation in self._known:
            for name, placed in generation.receipt.files.items():
                path = os.path.join(generation.path, name)
                if placed.recipe == recipe and _is_file(path):
                    yield file_at(path, name), placed

    def _share(self, file: FileSeen, destination: str) -> None:
        """Give a shard a second name in the stage: generations share its inode then, and a write would reach them all.

        That moves the inode's ctime, so that what is known of it has to be remembered anew.
        """
        os.link(file.location, destination, follow_symlinks=False)
        self._store.remember_again(file, file_at(file.location, file.name))

    def _copy(self, part: CopiedFile, stage: Stage, advance: Advance) -> PlacedFile:
        file = part.sidecar.file
        data = read_file(file)
        if sha256_of(data) != part.sidecar.sha256:
            problem = "expected the file that was planned with, found one that changed since"
            raise Conflict(problem, subject=part.name, hint=_AGAIN)
        stage.write(part.name, data)
        advance(len(data))
        return PlacedFile(
            how="copy",
            origin="sidecar",
            source=file.location,
            size=len(data),
            sha256=part.sidecar.sha256,
            proof="proven",
        )

    def _write(self, action: Action, part: PatchedFile | bytes, stage: Stage, advance: Advance) -> PlacedFile:
        data = part.data if isinstance(part, PatchedFile) else part
        stage.write(action.name, data)
        advance(len(data))
        origin: Origin = "sidecar" if isinstance(part, PatchedFile) else "index"
        return PlacedFile(how="write", origin=origin, size=len(data), sha256=action.sha256, proof="proven")

    def _pinned(self, part: LinkedShard) -> str | None:
        lock = self._pins.lock
        if lock is None:
            return None
        base = lock.base.files if lock.base is not None else {}
        pinned = base.get(part.shard.file.name) if part.origin == "base" else lock.grafts.get(part.name)
        return pinned.sha256 if pinned is not None else None

    def _make(self, part: BuiltShard, path: str, advance: Advance) -> WrittenShard:
        """Fetch, copy or compute the tensors of a shard."""
        if part.recipe is None and lies_elsewhere(part):
            written = fetch_graft(part, self.drafts, advance)
            self.drafts.hand_over(part.name, path)
            return written
        if part.recipe is None:
            return write_shard(path, part.header, part.sources, advance)
        from overlay.running.converting import Conversion, convert, require_accuracy  # few overlays compute anything

        here = fetch_inputs(part, self.drafts, self._reporter)
        done = convert(part.header, part.recipe, path, Conversion(here=here), advance)
        require_accuracy(done.accuracy, part.limits, part.name)
        return done.written

    def _require_pinned(self, part: BuiltShard, written: WrittenShard) -> None:
        """Hold what was just built against the lock, tensor by tensor so that the culprit has a name."""
        pinned = self._pins.lock.grafts.get(part.name) if self._pins.lock is not None else None
        if pinned is None:
            return
        wrong = _wrong_tensors(pinned.tensors, written.tensors)
        if not wrong and pinned.sha256 and pinned.sha256 != written.digests.sha256:
            wrong = [f"{part.name}: expected sha256 {pinned.sha256}, found {written.digests.sha256}"]
        if wrong:
            raise Mismatch(
                wrong[0],
                subject=part.name,
                hint="the donor's bytes changed since the lock; fetch the donor again",
                others=tuple(wrong[1:20]),
            )


def _wrong_tensors(pinned: Mapping[str, object], written: Mapping[str, str]) -> list[str]:
    expected = {name: getattr(tensor, "xxh3_128", None) for name, tensor in pinned.items()}
    return [
        f"{name}: expected xxh3-128 {expected[name]}, found {found}"
        for name, found in written.items()
        if expected.get(name) and expected[name] != found
    ]


def _number(plan: Plan, target: TargetSeen, known: Sequence[Generation]) -> int:
    """The new tree's number.  A tree that only repairs the one it replaces is the same generation, and takes its number."""
    if target.receipt is not None and target.receipt.state == plan.state:
        return target.receipt.generation
    return next_number(known)


def _replaced(plan: Plan, target: TargetSeen) -> int:
    """The generation that the new tree takes the place of; a repair takes the place of nothing."""
    if target.receipt is None:
        return 0
    return target.receipt.replaced if target.receipt.state == plan.state else target.receipt.generation


def _require_unmoved(target: TargetSeen) -> None:
    """Hold the target, now that it is locked, against what was planned with.

    Raises:
        Conflict: another run was here in between, or somebody put files there.
    """
    now = look_at_target(target.path)
    if _identity(now) != _identity(target):
        raise Conflict(
            "expected the target that was planned with, found one that changed since", subject=target.path, hint=_AGAIN
        )


def _identity(target: TargetSeen) -> tuple[object, ...]:
    """Which tree it is, and which files it holds: a repair deletes the tree, with a file that came in between."""
    return target.state, target.receipt, target.receipt_problem, target.entries.keys()


def _is_file(path: str) -> bool:
    """Whether there is a regular file at `path`, and no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _recheck(stage: Stage, receipt: Receipt, advance: Advance) -> None:
    """Look at the stage once more before it becomes the target: what is there is what the receipt says.

    Raises:
        Conflict: a file in the stage is not what was put there.
    """
    for name, placed in receipt.files.items():
        path = os.path.join(stage.path, *name.split("/"))
        file = file_at(path, name)
        if file.size != placed.size:
            problem = f"expected {placed.size} bytes in the stage, found {file.size}"
            raise Conflict(problem, subject=name, hint=_AGAIN)
        if placed.header_sha256 and placed.how != "symlink" and read_header(file).digest != placed.header_sha256:
            raise Conflict("expected the header that was planned with, found another", subject=name, hint=_AGAIN)
        if placed.origin in ("sidecar", "index") and hash_file(file, advance).sha256 != placed.sha256:
            raise Conflict("expected the bytes that were written, found others", subject=name, hint=_AGAIN)


def _mode(text: str) -> LinkMode:
    modes: dict[str, LinkMode] = {mode: mode for mode in ("auto", "reflink", "symlink", "hardlink", "copy")}
    return modes[text]


def _proof(known: bool) -> Proof:
    return "proven" if known else "unproven"
