"""Launching: from a checkpoint to the command that serves it, and from a command to a running server.

Reads ``config.json``, the receipt, a manifest and the links; of weights nothing, but with `verify` their headers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Final, NoReturn

from overlay.core.checking import check_draft
from overlay.core.checkpoint import FileSeen
from overlay.core.findings import Finding
from overlay.core.launching import Command, EngineName, Mount, Serving, compose_command, in_docker, render_checksums
from overlay.core.progress import Reporter
from overlay.core.target import TargetSeen, linked_files
from overlay.errors import EnvironmentFault, InvalidInput, UsageError
from overlay.formats import strict_json
from overlay.formats.model_config import CONFIG_NAME, ModelConfig, parse_model_config
from overlay.formats.names import REPOSITORY_MANIFEST, WEIGHT_SUFFIXES
from overlay.running.locating import Places, locate, open_checkpoint
from overlay.running.verifying import Verdict, verify_directory
from overlay.storage.documents import write_document
from overlay.storage.files import hint_for_errno
from overlay.storage.hashing import hash_file
from overlay.storage.links import Roots, resolve, roots_for
from overlay.storage.mounts import mounts_for, prune
from overlay.storage.proofs import Memory, ProofStore
from overlay.storage.seen import read_file
from overlay.storage.stores import is_address
from overlay.storage.targets import look_at_target

if TYPE_CHECKING:
    from overlay.formats.manifest import Manifest
    from overlay.formats.receipt import PlacedFile

_NOT_LOADED: Final = (".*", "*.lock", "LICENSE*", "README*", "NOTICE*")
"""Files that SGLang's own list of checksums leaves out (0.5.23 srt/utils/model_file_verifier.py:58-67)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How a checkpoint shall be served."""

    engine: EngineName
    manifest: str | None = None
    """Where the options of the engine are written; None: the manifest in the folder itself, if there is one."""
    draft: str | None = None
    port: int | None = None
    tensor_parallel: int | None = None
    docker: str | None = None
    """The image to run it in."""
    checksum: str | None = None
    """Where to write SGLang's file of checksums."""
    extra: tuple[str, ...] = ()
    places: Places = field(default_factory=Places)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command, and what it was made from."""

    engine: EngineName
    directory: str
    command: Command
    mounts: tuple[Mount, ...]
    """Folders that a container needs; the first is the directory itself."""
    manifest: str | None
    """The manifest that gave options, or None."""
    checksum: str | None
    """The file of checksums that was written, or None."""
    verdicts: tuple[Verdict, ...] = ()
    """What verifying said, where it was asked for."""

    @property
    def ok(self) -> bool:
        """Whether nothing that was verified has errors."""
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What verifying found."""
        return tuple(finding for verdict in self.verdicts for finding in verdict.findings)

    def document(self) -> dict[str, Any]:
        """The launch as it stands in JSON documents."""
        return {
            "engine": self.engine,
            "directory": self.directory,
            "command": self.command.line,
            "words": list(self.command.words),
            "speculates": self.command.speculates,
            "port": self.command.port,
            "mounts": [{"source": mount.source, "target": mount.target} for mount in self.mounts],
            "manifest": self.manifest,
            "checksum": self.checksum,
            "verified": self.ok if self.verdicts else None,
            "findings": [finding.document() for finding in self.findings],
            "notes": list(self.command.notes),
        }


def prepare_launch(reference: str, order: Order, reporter: Reporter, *, verify: bool = False) -> Launch:
    """The command that serves the checkpoint that `reference` means.

    Writes the file of checksums where one is asked for, unless verifying found errors; nothing before all is decided.

    Args:
        reference: a folder, or a repository that the Hub cache holds whole.
        order: how it shall be served.
        reporter: shows how long verifying takes.
        verify: whether to verify at level headers first.

    Raises:
        InvalidInput: it is no checkpoint, a link leads where it must not, or a file of the checksums is unproven.
        UsageError: the parts of the order do not go together.
        EnvironmentFault: something cannot be read or written.
    """
    served = _open(reference, order.places)
    draft = _open(order.draft, order.places) if order.draft is not None else None
    checksum = _checksum_path(order, served) if order.checksum is not None else None
    options, manifest, notes = _options(served, order)
    serving = Serving(
        engine=order.engine,
        directory=served.path,
        config=served.config,
        options=options,
        draft=draft.path if draft is not None else None,
        draft_config=draft.config if draft is not None else None,
        missing=_missing_draft(draft or served, order.places),
        port=order.port,
        tensor_parallel=order.tensor_parallel,
        checksum=checksum,
        extra=order.extra,
    )
    command = compose_command(serving)
    command = replace(command, notes=(*command.notes, *notes))
    mounts = mounts_for(served.path, served.roots)
    if draft is not None:
        mounts = prune(dict.fromkeys([*mounts, *mounts_for(draft.path, draft.roots)]))
    verdicts = tuple(_verify(opened, order.places, reporter) for opened in (served, draft) if opened and verify)
    sums = _digests(served) if checksum is not None and all(verdict.ok for verdict in verdicts) else None
    if checksum is not None:
        mounts.append(Mount(os.path.realpath(checksum), checksum))
    if order.docker is not None:
        command = in_docker(command, order.engine, order.docker, mounts)
    if checksum is not None and sums is not None:
        write_document(checksum, render_checksums(sums))
    return Launch(
        engine=order.engine,
        directory=served.path,
        command=command,
        mounts=tuple(mounts),
        manifest=manifest,
        checksum=checksum if sums is not None else None,
        verdicts=verdicts,
    )


def become(command: Command) -> NoReturn:
    """Let the server take this process's place: it gets the signals, and its exit code is ours.

    Raises:
        EnvironmentFault: the program is not there, or cannot be run.
    """
    program = command.words[0]
    try:
        os.execvp(program, command.words)  # noqa: S606  # the user asked for it, and no shell takes part
    except OSError as error:
        hint = hint_for_errno(error.errno)
        if isinstance(error, FileNotFoundError):
            hint = "install the engine, activate its environment, or run the printed command where it is"
        problem = f"expected a program to run, the system says: {error.strerror}"
        raise EnvironmentFault(problem, subject=program, hint=hint) from None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A checkpoint's folder."""

    path: str
    """Absolute, as the user names it."""
    roots: Roots
    target: TargetSeen
    config: ModelConfig


def _open(reference: str, places: Places) -> _Opened:
    """Look at a folder that shall be served.

    Raises:
        InvalidInput: it is not on this machine, no folder, or has no sound config.
    """
    real = locate(reference, ".", places)
    if is_address(real):
        problem = "expected a folder on this machine, found a repository that is not whole in its cache"
        raise InvalidInput(problem, subject=reference, hint="fetch it first: hf download, or overlay apply")
    if not os.path.isdir(real):
        problem = "expected the folder of a checkpoint, found something else"
        raise InvalidInput(problem, subject=reference, hint="name the folder that was given to overlay apply -o")
    named = os.path.abspath(os.path.expanduser(reference))
    path = named if os.path.realpath(named) == real else real
    target = look_at_target(real)
    expected = linked_files(target.receipt) if target.receipt is not None else {}
    roots = roots_for(real, places.allowed_roots, expected)
    return _Opened(path, roots, target, _read_config(roots, reference))


def _read_config(roots: Roots, label: str) -> ModelConfig:
    subject = f"{label}/{CONFIG_NAME}"
    hint = f"overlay verify {label}"
    seen = resolve(roots, CONFIG_NAME)
    if isinstance(seen, Finding):
        problem = "expected a config, which engines go by, found none" if seen.code == "IDX003" else seen.message
        raise InvalidInput(problem, subject=subject, hint=hint)
    try:
        return parse_model_config(read_file(seen))
    except strict_json.JsonProblem as problem:
        raise InvalidInput(str(problem), subject=subject, hint=hint) from None


def _missing_draft(opened: _Opened, places: Places) -> str:
    """What the config says of a draft layer that no shard holds, by the index; "" where there is no index to ask."""
    seen = open_checkpoint(opened.path, opened.roots.own, places, headers=False)
    findings = check_draft(seen, opened.config) if seen.weight_map else []
    return findings[0].message if findings else ""


def _options(served: _Opened, order: Order) -> tuple[Mapping[str, Any], str | None, tuple[str, ...]]:
    """The manifest's options for the engine, the manifest, and what is to be said about both.

    Raises:
        InvalidInput: the manifest is malformed, or not there.
    """
    path = _manifest_path(served, order)
    if path is None:
        assembled = served.target.receipt is not None
        note = "the receipt holds no launch options: --manifest FILE takes those of the manifest"
        return {}, None, (note,) if assembled else ()
    from overlay.running.opening import read_manifest  # pydantic takes 0.1 s that others need not wait for

    manifest = read_manifest(path)
    profile = manifest.engines.get(order.engine)
    if profile is None or not profile.launch:
        return {}, path, (f"the manifest names no launch options for {order.engine}",)
    return profile.launch, path, tuple(_manifest_notes(served, manifest, path))


def _manifest_path(served: _Opened, order: Order) -> str | None:
    if order.manifest is None:
        inside = os.path.join(served.path, REPOSITORY_MANIFEST)
        return inside if os.path.isfile(inside) else None
    if not os.path.isdir(order.manifest):
        return order.manifest
    from overlay.running.preparing import manifest_in

    found = manifest_in(order.manifest)
    if found is None:
        problem = "expected a manifest in this folder, found none"
        raise InvalidInput(problem, subject=order.manifest, hint="name the manifest's file")
    return found


def _manifest_notes(served: _Opened, manifest: Manifest, path: str) -> Iterator[str]:
    receipt = served.target.receipt
    if receipt is not None and receipt.name != manifest.name and manifest.name not in receipt.name.split("+"):
        yield f"{served.path} was assembled from {receipt.name}, and {path} is {manifest.name}"
    elif receipt is not None and receipt.manifest_sha256 != manifest.digest:
        yield f"{path} says something else than when {served.path} was assembled, or is one of several"


def _verify(opened: _Opened, places: Places, reporter: Reporter) -> Verdict:
    return verify_directory(opened.path, opened.roots.own, "headers", places, reporter)


def _checksum_path(order: Order, served: _Opened) -> str:
    """Where the file of checksums goes.

    Raises:
        UsageError: the engine reads none, or the file would lie in the checkpoint.
    """
    assert order.checksum is not None
    if order.engine != "sglang":
        problem = f"expected --checksum with sglang, which reads such a file, found {order.engine}"
        raise UsageError(problem, hint="leave --checksum out")
    path = os.path.abspath(order.checksum)
    if os.path.commonpath([os.path.realpath(path), served.roots.own]) == served.roots.own or os.path.isdir(path):
        problem = "expected a file outside the checkpoint, which is never changed"
        raise UsageError(problem, subject=order.checksum, hint="--checksum checksums.json")
    return path


def _digests(served: _Opened) -> dict[str, tuple[str, int]]:
    """File name to sha256 and bytes, of everything that an engine may read.

    Small files are hashed now.  Files of weights must have been hashed on this machine and not touched since, or be proven
    by the receipt.

    Raises:
        InvalidInput: a file of weights is unproven; all are named.
    """
    memory = ProofStore()
    placed = served.target.receipt.files if served.target.receipt is not None else {}
    found: dict[str, tuple[str, int]] = {}
    unproven: list[str] = []
    for name in sorted(os.listdir(served.roots.own)):
        path = os.path.join(served.roots.own, name)
        if any(fnmatch(name, pattern) for pattern in _NOT_LOADED) or not os.path.isfile(path):
            continue
        file = resolve(served.roots, name)
        if isinstance(file, Finding):
            raise InvalidInput(file.message, subject=name, hint=f"overlay verify {served.path}")
        if os.path.splitext(name)[1] not in WEIGHT_SUFFIXES:
            found[name] = hash_file(file, lambda count: None).sha256, file.size
            continue
        sha256, problem = _proven(file, placed.get(name), memory)
        if problem:
            unproven.append(f"{name}: {problem}")
        found[name] = sha256, file.size
    if unproven:
        raise InvalidInput(
            unproven[0],
            subject=served.path,
            hint=f"overlay verify {served.path} --level content reads every byte once; then run the command again",
            others=tuple(unproven[1:]),
        )
    return found


def _proven(file: FileSeen, placed: PlacedFile | None, memory: ProofStore) -> tuple[str, str]:
    """The sha256 of a file of weights, or why none can be vouched for."""
    recalled, digests = memory.recall(file)
    expected = placed.sha256 if placed is not None and placed.sha256 else file.stated_sha256
    if digests is not None:
        if expected and digests.sha256 != expected:
            return "", f"expected sha256 {expected}, found {digests.sha256}"
        return digests.sha256, ""
    if recalled is Memory.CHANGED:
        return "", "expected a file that is as it was when it was hashed here, found one that changed since"
    if placed is None or placed.sha256 is None or placed.proof != "proven" or file.size != placed.size:
        return "", "expected a file whose bytes were hashed on this machine, found one that is unproven"
    return placed.sha256, ""
