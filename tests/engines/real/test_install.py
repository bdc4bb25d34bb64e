"""Where the engines cannot be installed, the reason is kept for the tests that are skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INSTALLER = Path(__file__).parent / "install.sh"


def install(venv: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", INSTALLER, venv, python], capture_output=True, text=True, check=False, timeout=60)


def test_a_python_that_is_not_there_is_the_reason(tmp_path: Path) -> None:
    venv = tmp_path / "engines"

    ended = install(venv, "/nowhere/python")

    assert ended.returncode == 1
    assert (venv / "unavailable").read_text().splitlines()[-1].startswith("python -m venv failed:")
    assert not (venv / "installed").exists()


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
    last = (venv / "unavailable").read_text().splitlines()[-1]
    assert last == "installing torch failed: ERROR: No matching distribution found for torch==2.13.0"
    assert not (venv / "installed").exists()
