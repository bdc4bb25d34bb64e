"""What the pages show is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from overlay.cli.main import cli
from overlay.formats.manifest import Manifest, ManifestProblems, parse_manifest
from tests.docs.examples import agrees, run, steps
from tests.docs.pages import DOCS, REPOSITORY, Block, all_blocks, blocks, name_of, pages

_RUN = [page for page in pages() if any(True for _ in steps(blocks(page)))]
_YAML = all_blocks("yaml")


@pytest.mark.parametrize("page", _RUN, ids=name_of)
def test_the_commands_of_a_page_print_what_it_shows(page: Path, tmp_path: Path) -> None:
    shown = list(steps(blocks(page)))

    printed = run(shown, tmp_path)

    differing = [
        f"{step.where}: $ {step.command}\nshown:\n{step.expected}\nprinted:\n{text}"
        for step, text in zip(shown, printed, strict=True)
        if not agrees(step.expected, text)
    ]
    assert not differing, "\n\n".join(differing)


def test_the_tutorial_and_the_readme_are_among_what_is_run() -> None:
    assert {DOCS / "tutorial.md", REPOSITORY / "README.md"} <= {*_RUN}


def test_a_command_with_a_prompt_stands_in_a_block_that_is_run() -> None:
    found = re.compile(r"^\$ overlay", re.MULTILINE)
    shown = sum(len(found.findall(page.read_text(encoding="utf-8"))) for page in pages())
    held = sum(len(found.findall(block.text)) for block in all_blocks("console"))

    assert held == shown


def _typed() -> list[tuple[str, list[str]]]:
    """The ``overlay`` commands that a page shows without running them."""
    lines = [(str(block), line) for block in all_blocks("sh") for line in block.text.splitlines()]
    return [(where, shlex.split(line, comments=True)) for where, line in lines if line.startswith("overlay ")]


@pytest.mark.parametrize(("where", "words"), _typed(), ids=[" ".join(words) for _, words in _typed()])
def test_a_command_that_is_not_run_has_options_that_exist(where: str, words: list[str]) -> None:
    _, verb, *arguments = words
    command = cli.get_command(click.Context(cli), verb)

    assert command is not None, where
    command.make_context(verb, arguments)


@pytest.mark.parametrize("block", _YAML, ids=str)
def test_a_manifest_of_a_page_parses_or_is_refused_as_it_says(block: Block) -> None:
    try:
        parse_manifest(block.text.encode())
    except ManifestProblems as problems:
        assert block.mark.endswith(", refused"), problems
    else:
        assert not block.mark.endswith(", refused")


def test_the_readme_shows_the_manifest_of_the_founding_case() -> None:
    founding = _manifest((REPOSITORY / "manifests" / "glm-5.2-nvfp4-mtp.yaml").read_text(encoding="utf-8"))
    (shown,) = (block.text for block in _YAML if block.page == "README.md")

    assert founding == _manifest(shown)


@pytest.mark.parametrize(
    ("expected", "printed", "verdict"),
    [
        ("a\n", "a\n", True),
        ("a\n", "b\n", False),
        ("a…c\n", "abbc\n", True),
        ("a…c\n", "a\nc\n", False),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\n…\nd\n", "a\nd\n", True),
        ("a\n", "a\nb\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_an_ellipsis_stands_for_any_text(expected: str, printed: str, verdict: bool) -> None:
    assert verdict == agrees(expected, printed)


def _manifest(text: str) -> Manifest:
    return parse_manifest(text.encode())
