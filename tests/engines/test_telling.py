"""What lint prints for people: a code is told of a few times, and what to do about it once."""

from __future__ import annotations

from pathlib import Path

from tests.engines.tiny import good
from tests.support.checkpoints import INDEX
from tests.support.commands import overlay


def test_of_many_findings_of_a_code_a_few_are_printed_and_its_hint_once(tmp_path: Path) -> None:
    good().write(tmp_path / "base")
    index = tmp_path / "base" / INDEX
    more = "".join(f'"x.{number}.weight": "gone-{number:02}.safetensors", ' for number in range(12))
    index.write_text(index.read_text().replace('"weight_map": {', f'"weight_map": {{{more}', 1))

    ended = overlay("lint", tmp_path / "base", "--engine", "vllm")

    lines = ended.output.splitlines()
    said = [number for number, line in enumerate(lines) if "gone-" in line]
    assert (1, 5) == (ended.code, len(said)), ended.output
    code = lines[said[0]].split()[0]
    assert f"  and 7 more {code}; --json lists all" == lines[said[-1] + 1]
    assert lines[said[-1] + 2].startswith("  hint: ")
    assert list(range(said[0], said[0] + 5)) == said
