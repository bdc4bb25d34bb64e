"""Looking: the verbs that look at one checkpoint, `verify` and `inspect`."""

from __future__ import annotations

from overlay.core.describing import Description
from overlay.core.findings import Finding
from overlay.core.progress import Reporter, Silent
from overlay.errors import UsageError
from overlay.running.inspecting import inspect_reference
from overlay.running.locating import Places, locate, place_of_document
from overlay.running.proving import Level
from overlay.running.verifying import Verdict, tell_apart, verify_directory, verify_shard


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
    kind, path = tell_apart(place_of_document(reference, where))
    if kind in ("repository", "manifest"):
        from overlay.running.verifying_manifests import verify_manifest, verify_repository  # 0.1 s for manifests alone

    if kind == "repository":
        return verify_repository(reference, path, level, where, report, jobs, donors=donors)
    if donors and kind != "manifest":
        problem = f"expected a manifest, which names donors, found a {kind}"
        raise UsageError(problem, subject=reference, hint="name the manifest, or leave --donors out")
    if kind == "shard":
        return verify_shard(path, level, report)
    if kind == "manifest":
        return verify_manifest(path, level, where, report, jobs, donors=donors)
    return verify_directory(reference, locate(path, ".", where), level, where, report, jobs)


def inspect(reference: str, *, places: Places | None = None) -> tuple[Description, list[Finding]]:
    """What a checkpoint, or a single shard, is made of, and what is wrong with it."""
    return inspect_reference(reference, places or Places())
