"""The command line in a process of its own, with what it read and how much memory it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

_PROGRAM = """
import sys, overlay.cli.main as m
try: m.main()
finally:
  said = lambda path: dict(line.split(':', 1) for line in open('/proc/self/' + path).read().splitlines())
  print(said('io')['rchar'], said('status')['VmHWM'].split()[0], file=sys.stderr)
"""
"""The kernel's VmHWM and not ru_maxrss, which a child inherits from whoever started it."""


class Ran(NamedTuple):
    """A command that succeeded."""

    document: dict[str, Any]
    read: int
    """Bytes that it read through system calls."""
    peak: int
    """Bytes of memory."""


def overlay(work: Path, *arguments: str, code: int = 0) -> Ran:
    """Run ``overlay ARGUMENTS --json`` in the folder `work`; it must end with `code`."""
    command = [sys.executable, "-c", _PROGRAM, *arguments, "--json"]
    environment = {**os.environ, "OVERLAY_CACHE": str(work / "cache")}
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == code, done.stderr
    read, peak = map(int, done.stderr.split()[-2:])
    return Ran(json.loads(done.stdout), read, peak * 1024)


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time of change and mode of every entry."""
    return {
        entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns, entry.stat().st_mode)
        for entry in os.scandir(folder)
    }
