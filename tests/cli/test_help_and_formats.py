"""What every command has in common: help, formats, one JSON document, usage errors."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import orjson
import pytest

import overlay
from overlay.cli.main import cli
from tests.bad_inputs.running import Said, run_here, run_process
from tests.bad_inputs.world import BASE, INDEX, S1, S2, Entry, World, index_of, write_json, write_shard

VERBS = cli.list_commands(click.Context(cli))

GOOD = {
    "init": "init --base base --graft graft",
    "lock": "lock recipe/mtp.yaml",
    "plan": "plan recipe/mtp.yaml -o serve",
    "apply": "apply recipe/mtp.yaml -o serve",
    "status": "status twice",
    "history": "history twice",
    "undo": "undo twice",
    "verify": "verify base",
    "inspect": "inspect base",
    "schema": "schema",
    "demo": "demo replica",
}
"""A command line of each verb that succeeds in the small world."""

BAD = {
    "init": ("init --base gone --graft graft", 3),
    "lock": ("lock gone.yaml", 3),
    "plan": ("plan recipe/mtp.yaml -o base/serve", 4),
    "apply": ("apply recipe/mtp.yaml -o gone/serve", 2),
    "status": ("status base", 3),
    "history": ("history gone", 3),
    "undo": ("undo twice --to 9", 4),
    "verify": ("verify hf://org/gone", 5),
    "inspect": ("inspect gone", 3),
    "schema": ("schema --gone", 2),
    "demo": ("demo base", 2),
}
"""A command line of each verb that fails, and its exit code."""


@pytest.fixture
def world(world: World, request: pytest.FixtureRequest) -> World:
    """The small world; for a verb that looks at generations with ``twice``, a target that has been two trees."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if params.get("verb") in ("status", "history", "undo"):
        assert 0 == run_here(["apply", "recipe/mtp.yaml", "-o", "twice", "-q"]).code
        assert 0 == run_here(["apply", "recipe/mtp.yaml", "-o", "twice", "-q", "--link", "copy"]).code
    return world


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_says_what_it_reads_and_writes_how_it_exits_and_an_example(verb: str) -> None:
    said = run_here([verb, "--help"])

    assert 0 == said.code
    for word in ("Reads: ", "Writes: ", "Exits: ", f"Example: overlay {verb}"):
        assert word in said.out
    assert "" == said.err


@pytest.mark.parametrize("verb", VERBS)
def test_the_exits_in_a_command_s_help_are_codes_that_the_program_has(verb: str) -> None:
    help_text = run_here([verb, "--help"]).out
    line = next(line for line in help_text.splitlines() if "Exits: " in line)

    codes = {int(code) for code in re.findall(r"(?<![\w-])\d+", line)}

    assert 0 in codes or verb == "plan"
    assert codes <= {0, 1, 2, 3, 4, 5}


def test_the_list_of_commands_is_the_list_of_modules_and_each_has_a_summary() -> None:
    said = run_here(["--help"])

    assert 0 == said.code
    assert set(GOOD) <= set(VERBS)
    assert all(re.search(rf"^  {verb} +\S", said.out, re.MULTILINE) for verb in VERBS)


@pytest.mark.parametrize("option", ["--json", "--format json", "--format=json"])
@pytest.mark.parametrize("verb", [verb for verb in GOOD if verb != "demo"])
def test_json_is_exactly_one_document_on_stdout(verb: str, option: str, world: World) -> None:
    said = run_here(shlex.split(f"{GOOD[verb]} {option}"))

    assert (0, "") == (said.code, said.err)
    assert verb == _document(said)["kind"]


@pytest.mark.parametrize("option", ["--json", "--format json", "--format=json"])
@pytest.mark.parametrize("verb", BAD)
def test_json_is_exactly_one_document_on_failure_too(verb: str, option: str, world: World) -> None:
    line, code = BAD[verb]

    said = run_here(shlex.split(f"{line} {option}"))

    error = _document(said)["error"]
    assert (code, code) == (said.code, error["exit_code"])
    assert {"kind", "message", "hint", "others", "exit_code"} == set(error)
    assert f"error: {error['message']}" == said.err.splitlines()[0]
    assert f"hint: {error['hint']}" == said.err.splitlines()[-1]


def test_the_demonstration_as_json_is_one_document_too(world: World) -> None:
    said = run_here(["demo", "replica", "--json"])

    assert (0, "") == (said.code, said.err)
    assert {"kind": "demo", "format": 1, "folder": "replica", "ok": True} == _document(said)


def test_findings_are_a_document_and_no_error(world: World) -> None:
    (world / "base/config.json").write_text("{")

    said = run_here(["verify", "base", "--json"])

    document = _document(said)
    assert (1, "", False) == (said.code, said.err, document["ok"])
    wanted = {"code", "severity", "subject", "message", "hint", "file", "tensor"}
    assert all(wanted <= set(finding) for finding in document["findings"])


@pytest.mark.parametrize("verb", [verb for verb in GOOD if verb != "init"])
def test_quiet_is_at_most_one_line(verb: str, world: World) -> None:
    said = run_here(shlex.split(f"{GOOD[verb]} -q"))

    assert (0, "") == (said.code, said.err)
    assert 1 == len(said.out.splitlines())


@pytest.mark.parametrize("verb", BAD)
def test_quiet_leaves_errors_and_hints_on_stderr(verb: str, world: World) -> None:
    line, code = BAD[verb]

    said = run_here(shlex.split(f"{line} -q"))

    assert (code, "") == (said.code, said.out)
    assert said.err.startswith("error: ")
    assert said.err.splitlines()[-1].startswith("hint: ")


@pytest.mark.parametrize(
    "options", ["--json -q", "--json --format human", "--format quiet --json", "--format human -q"]
)
@pytest.mark.parametrize("verb", GOOD)
def test_two_formats_at_once_are_a_matter_of_usage(verb: str, options: str, world: World) -> None:
    said = run_here(shlex.split(f"{GOOD[verb]} {options}"))

    assert 2 == said.code
    assert "expected one output format, found" in said.err
    assert not (world / "serve").exists()


def test_the_same_format_twice_is_one_format(world: World) -> None:
    said = run_here(["verify", "base", "--json", "--format", "json"])

    assert 0 == said.code
    assert "verify" == _document(said)["kind"]


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "verify",
        "verify base extra",
        "verify base --level deep",
        "verify base --jobs -1",
        "plan x.yaml",
        "launch base",
        "launch base --engine",
        "-x",
    ],
)
def test_a_usage_error_is_one_line_and_the_help_to_read(line: str, world: World) -> None:
    said = run_here(shlex.split(line))

    error, hint = said.err.splitlines()
    assert (2, "") == (said.code, said.out)
    assert error.startswith("error: ")
    verb = line.split()[0]
    assert hint == ("hint: overlay --help" if verb in ("frobnicate", "-x") else f"hint: overlay {verb} --help")
    assert "\\n" not in error


def test_no_command_at_all_shows_the_help_and_is_a_usage_error() -> None:
    said = run_here([])

    assert 2 == said.code
    assert "Commands:" in said.err


@pytest.mark.parametrize("verb", ["plan", "apply", "verify"])
def test_output_has_no_escape_codes_whatever_the_environment(verb: str, world: World) -> None:
    plain = run_process(shlex.split(GOOD[verb]), environment={"NO_COLOR": "1", "TERM": "xterm-256color"})
    if (world / "serve").exists():
        shutil.rmtree(world / "serve")
    forced = run_process(shlex.split(GOOD[verb]), environment={"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"})

    assert (0, 0) == (plain.code, forced.code)
    assert "\x1b" not in plain.out + plain.err + forced.out + forced.err


def test_plan_twice_is_the_same_to_the_byte(world: World) -> None:
    first = run_here(["plan", "recipe/mtp.yaml", "-o", "serve", "--json"])

    second = run_process(["plan", "recipe/mtp.yaml", "-o", "serve", "--json"], environment={"PYTHONHASHSEED": "7"})

    assert first.out == second.out
    assert not (world / "serve").exists()


def test_a_dry_run_is_the_plan(world: World) -> None:
    planned = run_here(["plan", "recipe/mtp.yaml", "-o", "serve", "--json"])

    dry = run_here(["apply", "recipe/mtp.yaml", "-o", "serve", "--json", "--dry-run"])

    assert planned.out == dry.out
    assert not (world / "serve").exists()


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "overlay"],
        [str(Path(sys.executable).with_name("overlay"))],
        [str(Path(sys.executable).with_name("hf-overlay"))],
    ],
    ids=["python -m overlay", "overlay", "hf-overlay"],
)
def test_the_program_starts_under_each_of_its_names(command: list[str]) -> None:
    if not Path(command[0]).exists():
        pytest.skip(f"{command[0]} is not installed")

    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)

    assert (0, f"overlay, version {overlay.__version__}\n", "") == (done.returncode, done.stdout, done.stderr)


HOSTILE = "a\n\x1b[31mb\x07\u202ec\u2066d\x9be\u200b"
"""A name with a newline, colour, a bell, bidi marks, an 8-bit escape and a zero-width space."""

_SHOWN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(
    "line", ["verify base", "inspect base --shards", "verify base --level content", GOOD["plan"], GOOD["apply"]]
)
def test_names_that_would_move_the_cursor_are_escaped(line: str, world: World) -> None:
    _hostile_names(world)

    said = run_here(shlex.split(line))

    assert not _SHOWN.search(said.out + said.err)
    assert "\\x1b[31mb\\x07\\u202ec\\u2066d\\x9be\\u200b" in said.out + said.err


@pytest.mark.parametrize("line", ["verify base", "inspect base", GOOD["init"], GOOD["plan"]])
def test_names_that_would_move_the_cursor_are_valid_json(line: str, world: World) -> None:
    _hostile_names(world)

    said = run_here(shlex.split(f"{line} --json"))

    assert 1 == len(said.out.splitlines())
    assert said.out.isascii()
    assert isinstance(orjson.loads(said.out), dict)  # a strict reader: no half of a surrogate pair


def test_a_hostile_argument_is_escaped(world: World) -> None:
    for line in (["verify", HOSTILE], [HOSTILE], ["plan", HOSTILE, "-o", "x"], ["verify", "base", "--level", HOSTILE]):
        said = run_here(line)

        assert said.code in (2, 3)
        assert not _SHOWN.search(said.out + said.err)


def test_a_derived_manifest_holds_no_raw_control_character(world: World) -> None:
    shutil.copytree(world / "base", world / HOSTILE)

    said = run_here(["init", "--base", HOSTILE, "--graft", "graft"])

    assert 0 == said.code
    assert not _SHOWN.search(said.out)


def _hostile_names(world: World) -> None:
    """A tensor, a stray shard and a sidecar with names that a terminal would obey, and a stray whose name is no UTF-8."""
    tensors: dict[str, Entry] = {**BASE[S2], HOSTILE: ("F32", [1])}
    write_shard(world / "base" / S2, tensors)
    write_json(world / "base" / INDEX, index_of({S1: BASE[S1], S2: tensors}))
    for name in (f"{HOSTILE}.safetensors", "half-\udcff.safetensors", f"{HOSTILE}.json"):
        (world / "base" / name).write_bytes(b"{}")


def _document(said: Said) -> dict[str, Any]:
    """The one JSON document on stdout."""
    assert 1 == said.out.count("\n")
    document = json.loads(said.out)
    assert isinstance(document, dict)
    assert 1 == document["format"]
    return document
