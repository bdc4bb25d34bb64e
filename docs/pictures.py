"""Make the pictures of the README anew, from the founding case at its real size on sparse files.

    python docs/pictures.py            # takes a minute, some 100 MB of disk, and chromium

``images/audit-light.png`` and ``images/audit-dark.png`` are the page of ``overlay audit --html`` in a browser;
``images/terminal.svg`` is what ``overlay verify`` and ``overlay audit`` print on a terminal, ``images/lint.svg`` what
``overlay lint`` prints.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

REPOSITORY: Final = Path(__file__).resolve().parents[1]
IMAGES: Final = REPOSITORY / "docs" / "images"
MAX_BYTES: Final = 250_000

BASE, DONOR, TARGET = "GLM-5.2-NVFP4", "GLM-5.2", "GLM-5.2-NVFP4-MTP"
WIDTH, HEIGHT = 1280, 1716  # down to layer 78
COLUMNS: Final = 100
SCHEMES: Final = {"dark": 0, "light": 1}
"""As Chromium numbers them."""

TYPED: Final = {
    "terminal": (
        ("verify", BASE),
        ("audit", TARGET, "--against", BASE, "--claim", "790 BF16 + 1 F32"),
    ),
    "lint": (
        ("lint", BASE, "--engine", "sglang"),
        ("lint", TARGET, "--engine", "vllm", "--engine", "sglang"),
    ),
}
"""What is typed on the terminal of each picture."""


def main() -> None:
    """Write the replicas, assemble the target, and take the pictures."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("expected chromium on the path, found none")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _assemble(work)
        for scheme in SCHEMES:
            _photograph(chromium, work, scheme, IMAGES / f"audit-{scheme}.png")
        for picture, typed in TYPED.items():
            _record(work, typed, IMAGES / f"{picture}.svg")
    for picture in sorted(IMAGES.iterdir()):
        size = picture.stat().st_size
        sys.stdout.write(f"{picture.relative_to(REPOSITORY)}: {size:,} bytes\n")
        if size > MAX_BYTES:
            sys.exit(f"expected at most {MAX_BYTES:,} bytes")


def _assemble(work: Path) -> None:
    """The replicas under the names of their repositories, the target, and the page."""
    _run([sys.executable, REPOSITORY / "benchmarks" / "full_size.py", work], work)
    (work / "base").rename(work / BASE)
    (work / "donor").rename(work / DONOR)
    manifest = REPOSITORY / "manifests" / "glm-5.2-nvfp4-mtp.yaml"
    _overlay(work, "apply", manifest, "--base", BASE, "--donor", f"bf16={DONOR}", "-o", TARGET)
    _overlay(work, "audit", TARGET, "--against", BASE, "--html", "audit.html")


def _photograph(chromium: str, work: Path, scheme: str, picture: Path) -> None:
    """The page in a browser of an empty profile, without a network."""
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *(f"--user-data-dir={work / scheme}", f"--window-size={WIDTH},{HEIGHT}"),
        *(f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", f"--screenshot={picture}"),
        (work / "audit.html").as_uri(),
    ]
    _run(command, work)
    if not picture.is_file():
        sys.exit(f"expected a picture at {picture}, found none")


def _record(work: Path, commands: tuple[tuple[str, ...], ...], picture: Path) -> None:
    """What is typed and printed, coloured as on a terminal of `COLUMNS` columns."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="standard")
        for number, words in enumerate(commands):
            typed = " ".join(f'"{word}"' if " " in word else word for word in words)
            console.print(Text(f"{chr(10) if number else ''}$ overlay {typed}", style="bold"))
            console.print(Text.from_ansi(_on_a_terminal(work, words)), end="")
        text = console.export_svg(title="overlay", unique_id=picture.stem)
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)  # they would be fetched
    picture.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def _on_a_terminal(work: Path, words: tuple[str, ...]) -> str:
    """What ``overlay`` prints for `words` when its output is a terminal."""
    own, its = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment = {**inherited, **_environment(work), "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "overlay", *words], cwd=work, env=environment, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    parts = []
    while part := _read(own):
        parts.append(part)
    os.close(own)
    process.wait()
    return b"".join(parts).decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the last writer is gone
        return b""


def _overlay(work: Path, *words: str | Path) -> None:
    _run([sys.executable, "-m", "overlay", *words], work)


def _run(command: list[str | Path], work: Path) -> None:
    environment = {**os.environ, **_environment(work)}
    quiet = subprocess.DEVNULL
    subprocess.run(command, cwd=work, env=environment, check=True, stdout=quiet, stderr=quiet)  # noqa: S603


def _environment(work: Path) -> dict[str, str]:
    return {"OVERLAY_CACHE": str(work / "cache"), "PYTHONPATH": str(REPOSITORY)}


if __name__ == "__main__":
    main()
