"""The command line, called in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from overlay.cli.main import cli
from overlay.errors import OverlayError


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    refusal: OverlayError | None = None

    @property
    def document(self) -> dict[str, Any]:
        """What it printed, when JSON was asked for."""
        document: dict[str, Any] = json.loads(self.output)
        return document


def overlay(*arguments: str | Path) -> Ended:
    """Run ``overlay ARGUMENTS``; any exception that a user would see as a traceback comes through."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, OverlayError):
        return Ended(result.exception.exit_code, result.stdout, result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout)
