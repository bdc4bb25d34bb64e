"""The law of publishing: with the client alone, base and difference put together are what ``overlay apply`` makes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import BASE, PATCH, REPO, build, publish, published, seed
from tests.support.checkpoints import sharded, single_file
from tests.support.commands import overlay

OF_REPOSITORIES = {"README.md", ".gitattributes", "overlay.yaml", "overlay.lock.json"}
"""What a repository has for itself, and a target does not take, or takes from the base."""


def run(script: str, folder: Path) -> None:
    """The commands of a card, in a new folder, with the client's own command line."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert 0 == ended.returncode, ended.stderr


def files_in(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".overlay" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


CASES: dict[str, dict[str, Any]] = {
    "graft": {},
    "sidecars": {
        "files": {
            "config.json": {"patch": PATCH},
            "chat_template.jinja": {"remove": True},
            "additional_chat_templates/short.jinja": {"from": "mine.jinja"},
        }
    },
}


@pytest.mark.parametrize(
    ("served", "base", "case"),
    [
        ("hub", sharded, "sidecars"),
        ("xet_hub", single_file, "graft"),
        *(
            pytest.param(served, base, case, marks=pytest.mark.slow)
            for served in ("hub", "xet_hub")
            for base in (sharded, single_file)
            for case in CASES
        ),
    ],
)
def test_the_commands_of_the_card_give_what_apply_gives(
    request: pytest.FixtureRequest, tmp_path: Path, served: str, base: Any, case: str
) -> None:
    hub: LoopbackHub = request.getfixturevalue(served)
    seed(hub, base())
    (tmp_path / "mine.jinja").write_text("{{ m }}\n")
    published(publish(build(tmp_path, **CASES[case])))
    script = re.search(r"```bash\n(.*?)```", hub.read(REPO, "README.md").decode(), re.DOTALL)
    assert script is not None

    run(script[1], tmp_path)
    applied = overlay("apply", f"hf://{REPO}", "-o", tmp_path / "target")

    assert 0 == applied.code, applied.refusal
    by_hand, by_tool = files_in(tmp_path / "DIR"), files_in(tmp_path / "target")
    assert by_tool.keys() - OF_REPOSITORIES == by_hand.keys() - OF_REPOSITORIES
    assert [] == [name for name, data in by_tool.items() if name not in OF_REPOSITORIES and data != by_hand[name]]


def test_nothing_is_written_through_a_link_of_the_cache(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    published(publish(build(tmp_path)))
    script = re.search(r"```bash\n(.*?)```", hub.read(REPO, "README.md").decode(), re.DOTALL)
    assert script is not None

    run(script[1], tmp_path)

    cached = Path(os.environ["HF_HOME"]) / "hub" / "models--org--base" / "snapshots" / hub.head(BASE).id
    assert sharded().files()["config.json"] == (cached / "config.json").read_bytes()


def test_the_proofs_of_the_card_hold(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    published(publish(build(tmp_path)))
    run(f"hf download {REPO} --local-dir COPY", tmp_path)
    card = (tmp_path / "COPY" / "README.md").read_text()
    commands = set(re.findall(r"`(overlay (?:verify|audit) [^`]+)`", card))

    assert len(commands) >= 3
    for command in sorted(commands):
        words = [str(tmp_path / "COPY") if word == "COPY" else word for word in command.split()[1:]]
        assert 0 == overlay(*words).code, command


def test_a_whole_repository_is_what_apply_gives(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)
    built = build(tmp_path)
    published(publish(built, f"hf://{REPO}", "--full"))
    run(f"hf download {REPO} --local-dir WHOLE", tmp_path)

    assert 0 == overlay("apply", built, "-o", tmp_path / "target").code

    whole, target = files_in(tmp_path / "WHOLE"), files_in(tmp_path / "target")
    assert [] == [name for name, data in target.items() if name not in OF_REPOSITORIES and data != whole[name]]
