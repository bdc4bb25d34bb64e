"""Launching: the command that serves a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.core.launching import EngineName
from overlay.core.progress import Reporter, Silent
from overlay.errors import UsageError
from overlay.running.launching import Launch, Order, prepare_launch
from overlay.running.locating import Places


def launch(
    reference: str,
    engine: EngineName,
    *,
    manifest: str | None = None,
    draft: str | None = None,
    port: int | None = None,
    tensor_parallel: int | None = None,
    docker: str | None = None,
    checksum: str | None = None,
    extra: Sequence[str] = (),
    verify: bool = False,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Launch:
    """How is the checkpoint at `reference` served?  Runs nothing; `Launch.command.words` are what to run.

    Args:
        reference: a folder, or a repository that the Hub cache holds whole.
        engine: what shall serve it.
        manifest: the file, or the repository's folder, whose ``engines.ENGINE.launch`` gives further options.
        draft: a separate draft checkpoint.
        port: where to listen, from 1 to 65535.
        tensor_parallel: over how many devices, at least 1.
        docker: the image to run it in.
        checksum: where to write SGLang's file of checksums.
        extra: further words, as they are.
        verify: whether to verify at level headers first; then look at `Launch.ok`.
        places: which folders links may reach.
        reporter: shows how long verifying takes.

    Raises:
        UsageError: the parts do not go together.
        InvalidInput: it cannot be served so; the message says why.
        EnvironmentFault: something cannot be read or written.
    """
    no_port = port is not None and not 1 <= port <= 65535
    no_device = tensor_parallel is not None and tensor_parallel < 1
    if no_port or no_device:
        raise UsageError("expected a port from 1 to 65535 and at least 1 device", hint="overlay launch --help")
    order = Order(
        engine=engine,
        manifest=manifest,
        draft=draft,
        port=port,
        tensor_parallel=tensor_parallel,
        docker=docker,
        checksum=checksum,
        extra=tuple(extra),
        places=places or Places(),
    )
    return prepare_launch(reference, order, reporter or Silent(), verify=verify)
