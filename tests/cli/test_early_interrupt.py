"""Ctrl-C is answered from the first line of the console script on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time


def test_an_interrupt_while_modules_are_imported_ends_in_two_lines_and_130() -> None:
    """The import of the command is held up, so that the signal comes in the middle of it."""
    program = (
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'overlay.cli.main':\n"
        "            print('importing', flush=True); time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from overlay.cli.entry import entry\n"
        "entry()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert [line.partition(":")[0] for line in said.splitlines()] == ["error", "hint"]
