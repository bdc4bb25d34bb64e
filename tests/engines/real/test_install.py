"""Where the engines cannot be installed, the reason is kept for the tests that are skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.engines.real.matrix import why_not

INSTALLER = Path(__file__).parent / "install.sh"


def install(venv: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", INSTALLER, venv, python], capture_output=True, text=True, check=False, timeout=60)


def test_a_python_that_is_not_there_is_the_reason(tmp_path: Path) -> None:
    venv = tmp_path / "engines"

    ended = install(venv, "/nowhere/python")

    assert ended.returncode == 1
    assert (why_not(venv) or "").startswith("the engines are not installed: python -m venv failed:")


def test_a_package_that_cannot_be_had_is_the_reason(tmp_path: Path) -> None:
    # A python whose pip finds nothing: the environment is real, the command inside fails.
    venv, python = tmp_path / "engines", tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
mkdir -p "$3/bin" && printf '#!/bin/sh\\necho "ERROR: No matching distribution found for $3" >&2\\nexit 1\\n' > "$3/bin/pip"
chmod +x "$3/bin/pip"
exec {sys.executable} -c pass
"""
    )
    python.chmod(0o755)

    ended = install(venv, str(python))

    assert ended.returncode == 1
    assert why_not(venv) == (
        "the engines are not installed: installing torch failed: ERROR: No matching distribution found for torch==2.13.0"
    )


def test_without_an_attempt_the_reason_names_the_command(tmp_path: Path) -> None:
    assert why_not(tmp_path) == "the engines are not installed: make engines does it"


def test_an_environment_that_is_there_is_no_reason(tmp_path: Path) -> None:
    (tmp_path / "installed").touch()

    assert why_not(tmp_path) is None
