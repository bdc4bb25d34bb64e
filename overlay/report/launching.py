"""A launch as text: the command on a line of its own, then what is worth knowing."""

from __future__ import annotations

from collections.abc import Iterator

from overlay.core.launching import quote
from overlay.report.blocks import Block, Marked, Verbatim
from overlay.report.text import finding_lines
from overlay.running.launching import Launch


def launch_lines(launch: Launch) -> Iterator[Block]:
    """The command, as a shell takes it, unless verifying found errors."""
    yield from finding_lines(launch.findings)
    if not launch.ok:
        yield Marked("", "not ok", f" at level headers: {launch.directory} is not launched")
        return
    yield Verbatim(launch.command.line)
    if launch.checksum is not None:
        yield f"wrote {launch.checksum}: the server checks sha256 of these files before it loads them"
    outside = [mount for mount in launch.mounts[1:] if mount.target != launch.checksum]
    if outside and launch.command.words[0] != "docker":
        volumes = " ".join(f"-v {quote(f'{m.source}:{m.target}:ro')}" for m in launch.mounts)
        yield Marked("", "note", f": links leave the folder; a container needs {volumes}; see --docker")
    for note in launch.command.notes:
        yield Marked("", "note", f": {note}")
