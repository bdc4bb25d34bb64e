"""The pages that are looked things up in agree with the package, and with each other."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from overlay.cli.main import cli
from overlay.core.codes import CODES
from overlay.core.generations import KEEP
from overlay.errors import Conflict, EnvironmentFault, InvalidInput, Mismatch, OverlayError, UsageError
from overlay.formats import dtypes, yaml_text
from overlay.formats.lock import Lock, LockedFile, LockedGraft, LockedResult, LockedSource, LockedTensor
from overlay.formats.manifest import (
    Drop,
    EngineProfile,
    Expect,
    FileChange,
    Graft,
    Manifest,
    ManifestProblems,
    PatchOperation,
    parse_manifest,
)
from overlay.formats.receipt import PlacedFile, Receipt
from tests.docs.pages import DOCS, REPOSITORY, blocks, name_of, pages, prose

GENERATED: dict[str, str] = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
_CODE = re.compile(r"[A-Z]{3}[0-9]{3}")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FOLDERS = ("formats", "core", "storage", "transforms", "running", "report", "api", "cli", "demo")


def _text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# Generated pages


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    # Releases of click differ in where they break lines, so that blanks do not count.
    assert GENERATED[name].split() == _text(name).split(), "make docs"


def test_every_command_is_on_the_page_of_commands() -> None:
    headings = re.findall(r"^## overlay (\w+)$", _text("cli.md"), re.MULTILINE)

    assert list(cli.list_commands(cli.make_context("overlay", ["schema"]))) == headings


def test_every_exit_code_is_on_the_page_of_commands() -> None:
    kinds: list[type[OverlayError]] = [Mismatch, UsageError, InvalidInput, Conflict, EnvironmentFault]

    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", _text("cli.md"), re.MULTILINE)}

    assert {0, 130, 141, *(kind.exit_code for kind in kinds)} == documented


# Findings


def _codes_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _CODE.fullmatch(node.value):
            yield node.value


def test_every_code_that_the_package_uses_is_registered_and_the_other_way_round() -> None:
    register = REPOSITORY / "overlay" / "core" / "codes"
    modules = [path for path in (REPOSITORY / "overlay").rglob("*.py") if register not in path.parents]

    used = {code for path in modules for code in _codes_in(path)}

    assert CODES.keys() == used


def test_every_registered_code_is_documented_and_the_other_way_round() -> None:
    assert CODES.keys() == set(_CODE.findall(_text("findings.md")))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_a_code_that_a_page_names_is_registered(page: Path) -> None:
    assert set() == set(_CODE.findall(page.read_text(encoding="utf-8"))) - CODES.keys()


# Manifest, lock and receipt


@pytest.mark.parametrize(
    ("page", "model"),
    [
        *(
            ("manifest.md", model)
            for model in (Manifest, Graft, Drop, Expect, FileChange, PatchOperation, EngineProfile)
        ),
        *(("lock.md", model) for model in (Lock, LockedSource, LockedFile, LockedGraft, LockedTensor, LockedResult)),
        *(("lock.md", model) for model in (Receipt, PlacedFile)),
    ],
)
def test_every_key_is_documented(page: str, model: type[BaseModel]) -> None:
    keys = {field.alias or name for name, field in model.model_fields.items()}

    assert set() == keys - set(re.findall(r"`([\w-]+)`", _text(page)))


def test_every_dtype_is_documented() -> None:
    assert set() == dtypes.BITS.keys() - set(re.findall(r"`(\w+)`", _text("manifest.md")))


_MANIFEST = "overlay: 1\nname: x\nbase: b\ndonors: {d: d}\n"


@pytest.mark.parametrize("scalar", ["on", "yes", "n", "0012", "0x1F", "1_000", ".5", "12:30:00", "2026-11-21", "<<"])
def test_a_scalar_that_is_documented_as_refused_is_refused_and_text_in_quotes(scalar: str) -> None:
    assert f"`{scalar}`" in _text("manifest.md")
    with pytest.raises(ManifestProblems, match="all YAML readers agree"):
        parse_manifest(f"{_MANIFEST}summary: {scalar}\n".encode())

    assert scalar == parse_manifest(f'{_MANIFEST}summary: "{scalar}"\n'.encode()).summary


def test_the_limits_of_yaml_are_those_of_the_page() -> None:
    assert f"At most 1 MiB, UTF-8, one document, at most {yaml_text.MAX_DEPTH} nested levels" in _text("manifest.md")
    assert 2**20 == yaml_text.MAX_BYTES


def test_the_number_of_kept_generations_is_that_of_the_pages() -> None:
    assert 3 == KEEP
    assert "Three are kept beside the current one" in _text("guarantees.md")
    assert "Three are kept beside the current one" in _text("concepts.md")


# Links and names


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_a_link_leads_somewhere(page: Path) -> None:
    links = [link for link in _LINK.findall(prose(page)) if not link.startswith("https://")]

    assert [] == [link for link in links if not _leads_somewhere(page, link)]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_a_file_or_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`([\w./-]+)`", prose(page))
    files = [name for name in named if name.startswith(("tests/", "overlay/", "docs/")) and "NAME" not in name]
    files += [f"overlay/{name}" for name in named if name.startswith(tuple(f"{room}/" for room in _FOLDERS))]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))

    assert [] == [name for name in files if not (REPOSITORY / name).exists()]
    assert [] == [name for name in named if re.fullmatch(r"test_\w+", name) and f"def {name}(" not in tests]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, blanks to hyphens, other marks left out."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_a_picture_of_a_page_is_there_and_small(page: Path) -> None:
    shown = re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^\]]*\]\(([^)\s]+)\)', prose(page))
    pictures = [page.parent / (one or other) for one, other in shown]

    assert [] == [str(picture) for picture in pictures if not picture.is_file() or picture.stat().st_size > 250_000]


def test_every_page_of_the_documentation_is_on_the_map() -> None:
    linked = {(DOCS / link).resolve() for link in _LINK.findall(prose(DOCS / "index.md"))}

    assert set() == {page for page in DOCS.rglob("*.md") if page.name != "index.md"} - linked


def test_blocks_are_closed_and_say_their_language() -> None:
    assert [] == [str(block) for page in pages() for block in blocks(page) if not block.language]
