"""Looking: the verbs that look at one checkpoint, `verify`, `mend`, `inspect`, `explain`."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.core.codes import CODES, Meaning
from overlay.core.describing import Description
from overlay.core.findings import Finding
from overlay.core.progress import Reporter, Silent
from overlay.core.tracing import Trace, near_codes
from overlay.errors import UsageError
from overlay.running.inspecting import inspect_reference
from overlay.running.locating import Places, locate
from overlay.running.mending import Fixed, fix_index
from overlay.running.proving import Level
from overlay.running.tracing import trace_tensor
from overlay.running.verifying import Verdict, tell_apart, verify_directory, verify_shard
from overlay.running.verifying_manifests import verify_manifest, verify_repository


def verify(
    reference: str,
    *,
    level: Level = "headers",
    jobs: int = 0,
    donors: bool = False,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Verdict:
    """Is it what its index, lock or receipt says?  A checkpoint, a target, a manifest, its lock, or a single shard.

    With `donors`, which needs a manifest, every graft is made again from its donors and compared.
    """
    where, report = places or Places(), reporter or Silent()
    kind, path = tell_apart(reference)
    if kind == "repository":
        return verify_repository(reference, path, level, where, report, jobs, donors=donors)
    if donors and kind != "manifest":
        problem = f"expected a manifest, which names donors, found a {kind}"
        raise UsageError(problem, subject=reference, hint="name the manifest, or leave --donors out")
    if kind == "shard":
        return verify_shard(path, level, report)
    if kind == "manifest":
        return verify_manifest(path, level, where, report, jobs, donors=donors)
    return verify_directory(reference, locate(path, "."), level, where, report, jobs)


def mend(
    reference: str,
    path: str,
    *,
    adopt: Sequence[str] = (),
    unlist: Sequence[str] = (),
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Fixed:
    """Write the index that the checkpoint should have to the new file `path`; the checkpoint is only read."""
    kind, checkpoint = tell_apart(reference)
    if kind not in ("checkpoint", "repository"):
        problem = f"expected a checkpoint, which has an index, found a {kind}"
        raise UsageError(problem, subject=reference, hint="name the folder of the checkpoint")
    directory = locate(reference if kind == "repository" else checkpoint, ".")
    where, report = places or Places(), reporter or Silent()
    return fix_index(reference, directory, path, where, report, adopt=adopt, unlist=unlist)


def inspect(reference: str, *, places: Places | None = None) -> tuple[Description, list[Finding]]:
    """What a checkpoint, or a single shard, is made of, and what is wrong with it."""
    return inspect_reference(reference, places or Places())


def explain_code(code: str) -> tuple[str, Meaning]:
    """The registered code that `code` means, whatever its case, and what it stands for."""
    meaning = CODES.get(code.upper())
    if meaning is None:
        near = " or ".join(near_codes(code, CODES))
        hint = f"did you mean {near}?" if near else "overlay explain lists every code"
        raise UsageError("expected the code of a finding, found none of that name", subject=code, hint=hint)
    return code.upper(), meaning


def trace(
    tensor: str,
    reference: str,
    *,
    lock: str = "",
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Trace:
    """Where a tensor of a checkpoint lies, the digest of its bytes, and where it came from."""
    return trace_tensor(tensor, reference, lock, places or Places(), reporter or Silent())
