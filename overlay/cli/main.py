"""The command ``overlay``: its list of verbs, and what happens when one of them fails.

Verbs live in modules that are imported when they are called, so that ``overlay --help`` costs little more than click.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

import click

from overlay import __version__
from overlay.cli.output import Output, report_error
from overlay.errors import EnvironmentFault, OverlayError

_VERBS = {
    "init": ("making", "Write a manifest from a base and a diff-only repository or derived checkpoint."),
    "lock": ("making", "Pin sizes and digests of everything that a manifest names."),
    "build": ("building", "Make the shards of a manifest's grafts: extract and convert tensors."),
    "publish": ("publishing", "Put the difference on the Hub, or a whole repository by copies on the server."),
    "plan": ("applying", "Show what apply would link, build and write; change nothing."),
    "apply": ("applying", "Assemble a serving directory, atomically, without copying the base."),
    "status": ("generations", "Say how a target stands: clean, modified, dangling, base moved."),
    "undo": ("generations", "Bring back the generation before the current one."),
    "history": ("generations", "List the generations of a target."),
    "verify": ("looking", "Check a checkpoint against its index, lock or receipt."),
    "diff": ("comparing", "Show how two checkpoints differ."),
    "audit": ("comparing", "Show what a checkpoint adds to its base, and which claims hold."),
    "inspect": ("inspecting", "Show what a checkpoint is made of."),
    "explain": ("explaining", "Say what a finding means, or where a tensor came from."),
    "lint": ("linting", "Say what each engine will do with a checkpoint, before a GPU is rented."),
    "launch": ("launching", "Print the command that serves a checkpoint, or run it."),
    "probe": ("probing", "Ask a running server whether its draft fires."),
    "schema": ("looking", "Print the JSON Schema of the manifest."),
    "demo": ("demo", "Run the founding case on a scaled-down replica."),
}

_TRAFFIC = "overlay.storage.hub.traffic"
"""Imported by whatever asks the Hub, and by nothing else."""
INTERRUPTED = 130
CLOSED_PIPE = 141  # what a shell reports of a program that SIGPIPE ended; 0 would be a verdict that nobody read


class _Interrupted(BaseException):
    """A signal asked the command to end.  Not KeyboardInterrupt, which click answers with a line of its own."""


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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(number, _interrupt)
    # A command lives for seconds and makes no cycles worth collecting; collecting would cost more than the parsing.
    gc.disable()
    if "_OVERLAY_COMPLETE" in os.environ:  # the shell asks for completions
        cli.main(prog_name="overlay")
    module = sys.modules.get(_TRAFFIC)
    before = (module.traffic(), len(module.remarks())) if module is not None else None  # a process may run several
    try:
        code = _run(sys.argv[1:])
        _tell_traffic(before)
    except BrokenPipeError:  # the reader of our output went away (``overlay … | head``)
        code = CLOSED_PIPE
        _silence()
    except OSError as error:  # the error could not be written either
        del error
        code = EnvironmentFault.exit_code
        _silence()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run one command; gives back the exit code, and lets through only bugs and a closed output."""
    output = Output.guess(arguments)
    try:
        # Not `cli.main`, which has its own words for an interrupt and its own exit code for a closed pipe.
        with cli.make_context("overlay", arguments) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return output.failed("expected a command, found none", "usage", 2, hint="overlay --help")
    except click.UsageError as error:
        verb = f"overlay {arguments[0]}" if arguments and arguments[0] in _VERBS else "overlay"
        command = error.ctx.command_path if error.ctx is not None else verb
        message = error.format_message().removesuffix(".").replace("\n\t", " ")  # click lists choices line by line
        return report_error(output, message, "usage", 2, hint=f"{command} --help")
    except (_Interrupted, KeyboardInterrupt, click.Abort):
        message = "interrupted; nothing was left half-written"
        return report_error(output, message, "interrupted", INTERRUPTED, hint="run the command again")
    except OverlayError as error:
        return report_error(output, error.line, error.kind, error.exit_code, hint=error.hint, others=error.others)
    except BrokenPipeError:
        raise
    except OSError as error:
        from overlay.storage.files import hint_for_errno  # 10 ms that a good command need not wait for

        fault = EnvironmentFault(f"the system says: {error.strerror or error}", subject=str(error.filename or ""))
        return report_error(output, fault.line, fault.kind, fault.exit_code, hint=hint_for_errno(error.errno))
    return 0


def _tell_traffic(before: tuple[Any, int] | None) -> None:
    """Say what was asked of the Hub since `before`, where anything was."""
    module = sys.modules.get(_TRAFFIC)
    if module is None or any(argument in ("-q", "--quiet") for argument in sys.argv):
        return
    for line in module.remarks()[before[1] if before else 0 :]:
        print(f"note: {line}", file=sys.stderr)
    seen = module.traffic() - before[0] if before else module.traffic()
    if seen.requests:
        from overlay.report.text import in_bytes

        print(f"asked the Hub: {seen.requests} requests, {in_bytes(seen.bytes)} received", file=sys.stderr)


def entry() -> NoReturn:
    """The console script: `main`, and then out at once.

    Handing a quarter of a million tensor names back to the allocator one by one would cost a tenth of a command; the
    kernel takes the whole process in one step.  A bug leaves by its traceback as always.
    """
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None: the shell closed it (>&-)
                stream.flush()
    except OSError:
        code = code or 1
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C, SIGTERM and SIGHUP end a command alike: through every ``finally``."""
    del number, frame
    raise _Interrupted


def _silence() -> None:
    """Nobody reads our output any more; let the interpreter flush what is left of it to nowhere."""
    devnull = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for number in (1, 2):
        os.dup2(devnull, number)
