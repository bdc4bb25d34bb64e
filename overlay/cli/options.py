"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from overlay.running.locating import Places

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

allow_root_option: Decorator = click.option(
    "--allow-root", multiple=True, metavar="DIR", help="A folder that a checkpoint's links may reach."
)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--base``, ``--donor``, ``--allow-root`` and ``--look-in``: where things are on this machine."""
    for option in (
        click.option(
            "--look-in",
            multiple=True,
            metavar="DIR",
            help="A folder in which a locked base is looked for by content, where its repository is gone.",
        ),
        allow_root_option,
        click.option("--donor", multiple=True, metavar="NAME=PATH", help="A local copy of a donor of the manifest."),
        click.option("--base", metavar="REF", help="A local copy of the base, instead of what the manifest names."),
    ):
        command = option(command)
    return command


def places(
    base: str | None, donor: tuple[str, ...], allow_root: tuple[str, ...], look_in: tuple[str, ...] = ()
) -> Places:
    """What the options say.

    Raises:
        click.UsageError: a ``--donor`` that is not NAME=PATH.
    """
    donors = {}
    for text in donor:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise click.UsageError(f"expected --donor NAME=PATH, found {text}")
        donors[name] = path
    return Places(base=base, donors=donors, allowed_roots=allow_root, search=look_in)
