"""The house rules that import-linter cannot see."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "overlay"
MODULES = sorted(PACKAGE.rglob("*.py"))
PURE = sorted(path for room in ("formats", "core") for path in (PACKAGE / room).rglob("*.py"))

MAX_LINES = 400

_IMPURE_MODULES = {
    *("os", "pathlib", "io", "shutil", "tempfile", "glob", "fcntl", "mmap", "time", "datetime", "random", "secrets"),
    *("socket", "subprocess", "threading", "multiprocessing", "ctypes", "urllib.request", "logging"),
}
_IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
_IMPURE_METHODS = {
    *("read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "rmdir", "rename", "symlink_to"),
    *("hardlink_to", "iterdir", "rglob", "touch", "chmod", "lstat", "readlink", "is_file", "is_dir"),
}

_HEAVY = {"torch", "numpy", "pydantic", "rich", "huggingface_hub", "safetensors", "yaml", "transformers", "jinja2"}


def _named(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _impurities(tree: ast.Module) -> Iterator[str]:
    """What in a module reaches, or could reach, outside of its arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = []
        yield from (f"line {node.lineno}: import {name}" for name in names if name in _IMPURE_MODULES)  # type: ignore[attr-defined]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _IMPURE_CALLS:
            yield f"line {node.lineno}: {node.func.id}()"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _IMPURE_METHODS:
            yield f"line {node.lineno}: .{node.func.attr}()"


def _undocumented(tree: ast.Module) -> Iterator[str]:
    """The module, and public classes, functions, methods and properties, when they have no docstring."""
    if not ast.get_docstring(tree):
        yield "the module"
    scopes: list[tuple[str, ast.Module | ast.ClassDef]] = [("", tree)]
    while scopes:
        prefix, scope = scopes.pop()
        for node in scope.body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and not _overrides(node):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                scopes.append((f"{prefix}{node.name}.", node))


def _overrides(node: ast.AST) -> bool:
    """Methods that a framework calls by its own names; what they do is said there."""
    return getattr(node, "name", "") in {"list_commands", "get_command", "format_commands"}


def test_the_package_was_found() -> None:
    named = set(map(_named, MODULES))
    assert {"overlay/api/assembling.py", "overlay/formats/header.py", "overlay/core/composing.py"} <= named


@pytest.mark.parametrize("path", PURE, ids=_named)
def test_a_pure_module_touches_no_file_clock_or_process(path: Path) -> None:
    assert [] == list(_impurities(_tree(path)))


@pytest.mark.parametrize("path", MODULES, ids=_named)
def test_a_module_and_everything_public_in_it_has_a_docstring(path: Path) -> None:
    assert [] == list(_undocumented(_tree(path)))


def test_no_file_is_longer_than_can_be_read_at_once() -> None:
    lengths = {_named(path): len(path.read_text().splitlines()) for path in MODULES}

    assert {} == {name: length for name, length in lengths.items() if length > MAX_LINES}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import overlay"),
        ("-c", "import overlay; overlay.OverlayError"),
        ("-m", "overlay", "--help"),
        ("-m", "overlay", "--version"),
    ],
    ids=["import", "errors", "help", "version"],
)
def test_starting_costs_no_heavy_library(arguments: tuple[str, ...]) -> None:
    assert set() == _imported(*arguments) & _HEAVY


@pytest.mark.parametrize("verb", ["diff", "verify", "inspect", "lint"])
def test_looking_starts_without_models_of_documents_and_without_the_hubs_client(verb: str) -> None:
    assert _imported("-m", "overlay", verb, "--help") & _HEAVY <= {"yaml"}  # the front matter of cards is YAML


def _imported(*arguments: str) -> set[str]:
    """The packages that Python imports when it is started with these arguments."""
    command = [sys.executable, "-X", "importtime", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "overlay" in imported
    return imported


def test_the_check_of_purity_sees_what_it_should() -> None:
    source = "import os\nfrom time import sleep\nfrom pathlib import Path\nopen('x')\nPath('x').read_text()\n"

    assert 5 == len(list(_impurities(ast.parse(source))))
