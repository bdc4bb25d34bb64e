"""The command ``overlay``: its list of verbs, and what happens when one of them fails.

Verbs live in modules that are imported when they are called, so that ``overlay --help`` costs little more than click.
"""

from __future__ import annotations

import gc
import importlib
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from overlay import __version__
from overlay.cli.output import Output, report_error
from overlay.errors import EnvironmentFault, OverlayError

_VERBS = {
    "init": ("making", "Write a manifest from a base and a diff-only repository."),
    "lock": ("making", "Pin sizes and digests of everything that a manifest names."),
    "plan": ("applying", "Show what apply would link, build and write; change nothing."),
    "apply": ("applying", "Assemble a serving directory, atomically, without copying the base."),
    "verify": ("looking", "Check a checkpoint against its index, lock or receipt."),
    "inspect": ("looking", "Show what a checkpoint is made of."),
    "schema": ("looking", "Print the JSON Schema of the manifest."),
    "demo": ("demo", "Run the founding case on a scaled-down replica."),
}

INTERRUPTED = 130


class _Verbs(click.Group):
    """A group that knows its commands' names without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"overlay.cli.{_VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="overlay")
def cli() -> None:
    """Manage derived checkpoints: a base that is never copied, and what is laid over it.

    A manifest names a base and the shards that are grafted on it.  `overlay apply` assembles a serving directory of
    links, new shards and a corrected index; `overlay verify` says whether it is what it should be.

    \b
    Exit codes: 0 done, 1 findings or mismatch, 2 usage, 3 invalid input, 4 conflict, 5 environment, 130 interrupted.
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    # A command lives for seconds and makes no cycles worth collecting; collecting would cost more than the parsing.
    gc.disable()
    output = Output.guess(sys.argv[1:])
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(output.failed(error.format_message(), "usage", 2))
    except (KeyboardInterrupt, click.Abort):
        sys.exit(report_error(output, "interrupted; nothing was left half-written", "interrupted", INTERRUPTED))
    except OverlayError as error:
        sys.exit(report_error(output, error.line, error.kind, error.exit_code, hint=error.hint, others=error.others))
    except BrokenPipeError:
        sys.exit(_closed_pipe())
    except OSError as error:
        fault = EnvironmentFault(f"the system says: {error.strerror or error}", subject=str(error.filename or ""))
        sys.exit(report_error(output, fault.line, fault.kind, fault.exit_code))
    sys.exit(0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: through every ``finally``."""
    del number, frame
    raise KeyboardInterrupt


def _closed_pipe() -> int:
    """The reader of our output went away (``overlay … | head``); say nothing more."""
    devnull: Any = open("/dev/null", "w")  # noqa: SIM115  # stands in for stdout until the process ends
    sys.stdout = devnull
    return 0
