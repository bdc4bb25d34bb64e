"""Output: data on stdout, words and progress on stderr, a JSON document in every case when JSON is asked for."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

import click

from overlay.report.blocks import Block, Marked, plain_lines
from overlay.report.escape import printable

MAX_LINES = 20
"""Problems of one kind that are printed; a JSON document holds all of them."""

FORMATS = ("auto", "human", "json", "quiet")
DOCUMENT_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Output:
    """How a command speaks."""

    format: str = "human"

    @classmethod
    def guess(cls, arguments: list[str]) -> Output:
        """What `arguments` ask for, for errors that come before they are parsed."""
        if "--json" in arguments or "--format=json" in arguments or _follows(arguments, "--format", "json"):
            return cls("json")
        return cls("human")

    def show(self, kind: str, document: dict[str, Any], blocks: Iterable[Block], brief: str = "") -> None:
        """Print a result: as a JSON document, for people, or as one brief line."""
        if self.format == "json":
            self.document(kind, document)
        elif self.format == "quiet":
            if brief:
                click.echo(printable(brief))
        else:
            say(blocks)

    def document(self, kind: str, document: dict[str, Any]) -> None:
        """Print ``{"kind": kind, "format": 1, …}`` on one line; non-ASCII is escaped."""
        text = json.dumps({"kind": kind, "format": DOCUMENT_FORMAT, **document}, ensure_ascii=True)
        if (
            "\\ud" in text
        ):  # maybe half of a surrogate pair, from a file name that is not UTF-8: strict readers refuse it
            text = json.dumps(json.loads(text, object_pairs_hook=_in_utf8))
        click.echo(text)

    def failed(self, message: str, kind: str, code: int, hint: str = "", others: tuple[str, ...] = ()) -> int:
        """Print an error's JSON document where one is asked for; gives back the exit code."""
        if self.format == "json":
            error = {"kind": kind, "message": message, "hint": hint, "others": list(others), "exit_code": code}
            self.document("error", {"error": error})
        return code


def say(blocks: Iterable[Block]) -> None:
    """Print `blocks` on stdout: folded and coloured on a terminal, plain in a pipe or file."""
    if _is_terminal(sys.stdout):
        _show(blocks, sys.stdout)
    else:
        for line in plain_lines(blocks):
            click.echo(line)


def report_error(
    output: Output, message: str, kind: str, code: int, *, hint: str = "", others: tuple[str, ...] = ()
) -> int:
    """Say on stderr what stopped the command and what to type next; gives back the exit code."""
    lines = [Marked("", "error", f": {line}") for line in (message, *others[: MAX_LINES - 1])]
    if len(others) >= MAX_LINES:
        lines.append(Marked("", "error", f": and {len(others) - MAX_LINES + 1} more"))
    lines.append(Marked("", "hint", f": {hint or 'overlay --help'}"))
    if _is_terminal(sys.stderr):
        _show(lines, sys.stderr)
    else:
        for line in plain_lines(lines):
            print(line, file=sys.stderr)
    return output.failed(message, kind, code, hint, others)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options ``--format``, ``--json`` and ``-q``, which `chosen_output` combines."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print only what a script needs."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document; same as --format json."),
        click.option(
            "--format",
            "format_",
            type=click.Choice(FORMATS),
            default="auto",
            show_default=True,
            help="Form of the output.",
        ),
    ):
        command = option(command)
    return command


def chosen_output(format_: str, as_json: bool, quiet: bool) -> Output:
    """The output that the three options mean together."""
    wanted = {format_} - {"auto"} | ({"json"} if as_json else set()) | ({"quiet"} if quiet else set())
    if len(wanted) > 1:
        raise click.UsageError(f"expected one output format, found {', '.join(sorted(wanted))}")
    return Output(wanted.pop() if wanted else "human")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()  # None: the shell closed it (>&-)


def _show(blocks: Iterable[Block], stream: TextIO) -> None:
    from overlay.report.terminal import console_on, show  # rich costs 60 ms: only where there is a terminal

    show(blocks, console_on(stream))


def _in_utf8(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose texts can be encoded: half a surrogate pair becomes the six characters of its escape."""

    def encodable(value: Any) -> Any:
        if isinstance(value, list):
            return [encodable(item) for item in value]
        return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value

    return {encodable(key): encodable(value) for key, value in pairs}


def _follows(arguments: list[str], option: str, value: str) -> bool:
    return any(pair == (option, value) for pair in itertools.pairwise(arguments))
