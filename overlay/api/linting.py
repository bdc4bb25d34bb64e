"""Linting: the verb that says what each engine will do with a checkpoint, before a GPU is rented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from overlay.engines.versions import ENGINES, Engine, VersionProblem, newest, parse_engine
from overlay.errors import UsageError
from overlay.running.linting import Lint, lint_reference
from overlay.running.locating import Places


def lint(
    reference: str,
    engines: Sequence[str] = (),
    *,
    target: str | None = None,
    tensor_parallel: int = 1,
    need_draft: bool = False,
    places: Places | None = None,
) -> Lint:
    """What `engines` will do with a checkpoint, a repository, or what a manifest describes; no engine means all of them.

    Args:
        reference: what to look at; with `target`, a standalone draft.
        engines: such as ``vllm`` or ``vllm==0.33.0``.
        target: the checkpoint that the draft is served beside.
        tensor_parallel: ranks that weights are cut for.
        need_draft: whether it fails where an engine would have no draft layer, and would not say so.
        places: where things are on this machine.

    Raises:
        UsageError: an engine or version that there is not, or one that is named twice.
    """
    where = places or Places()
    wanted = _wanted(engines)
    found = lint_reference(
        reference, wanted, where, target=target, tensor_parallel=tensor_parallel, asked=bool(engines)
    )
    return replace(found, need_draft=need_draft)


def fix(found: Lint, path: str, *, places: Places | None = None) -> Lint:
    """Write a manifest that mends what a manifest can mend of `found` to the new file `path`, and look at it again.

    Args:
        found: what `lint` found.
        path: the manifest; what it is laid over is never changed.
        places: where things are on this machine.

    Raises:
        UsageError: no name of a manifest, or `found` is about no plain checkpoint.
        Conflict: there is a file of this name, or it would lie in the checkpoint.
        InvalidInput: the checkpoint has errors that only `mend` mends.
    """
    from overlay.running.fixing import write_fix  # manifests take 0.1 s to import

    return write_fix(found, places or Places(), path)


def _wanted(engines: Sequence[str]) -> list[Engine]:
    try:
        wanted = [parse_engine(text) for text in engines] or [newest(name) for name in ENGINES]
    except VersionProblem as problem:
        raise UsageError(str(problem), subject="--engine", hint="for example --engine vllm==0.33.0") from None
    if len({engine.name for engine in wanted}) < len(wanted):
        hint = "ask about two versions in two calls"
        raise UsageError("expected each engine once", subject="--engine", hint=hint)
    return wanted
