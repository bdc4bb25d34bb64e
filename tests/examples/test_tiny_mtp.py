"""The example of a base and its draft layer: what is committed holds together, and the draft does what the page says."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import read_shard
from tests.support.commands import overlay

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny-mtp"
DRAFT = "model.layers.46."


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the script prints, on fewer and shorter texts than by itself."""
    environment = {"OVERLAY_CACHE": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1", "PATH": ""}
    command = [sys.executable, str(EXAMPLE / "generate.py"), "--tokens", "20", "--prompts", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tokens_a_call(shown: str, name: str) -> float:
    match = re.search(
        rf"^{name} +40 tokens in [0-9]+ calls of the model: ([0-9.]+) tokens a call, same text$", shown, re.MULTILINE
    )
    assert match, shown
    return float(match[1])


def test_transformers_refuses_the_base_alone(shown: str) -> None:
    assert re.search(r"^base +refused: .*MtpModel weights are missing", shown, re.MULTILINE), shown


def test_a_draft_of_random_numbers_gives_nothing_and_no_error(shown: str) -> None:
    assert tokens_a_call(shown, "garbage draft") < 1.2


def test_the_grafted_draft_is_accepted_most_of_the_time(shown: str) -> None:
    assert tokens_a_call(shown, "grafted draft") > 1.5


def test_the_base_declares_the_layer_and_lacks_it() -> None:
    index = json.loads((EXAMPLE / "base" / "model.safetensors.index.json").read_bytes())
    config = json.loads((EXAMPLE / "base" / "config.json").read_bytes())

    assert config["num_nextn_predict_layers"] == 1
    assert len(set(index["weight_map"].values())) == 9
    assert [name for name in index["weight_map"] if name.startswith(DRAFT)] == []
    verified = overlay("verify", EXAMPLE / "base", "--level", "content", "--json")
    assert verified.code == 0
    assert [finding["code"] for finding in verified.document["findings"]] == ["MTP001"]


def test_the_donor_is_the_layer_and_nothing_else() -> None:
    verified = overlay("verify", EXAMPLE / "donor", "--level", "content", "--json")

    assert (verified.code, verified.document["findings"]) == (0, [])
    assert {name.startswith(DRAFT) for name in read_shard(EXAMPLE / "donor" / "model.safetensors")} == {True}


def test_the_lock_holds_and_the_assembled_directory_is_proven(tmp_path: Path) -> None:
    applied = overlay("apply", EXAMPLE / "tiny-mtp.yaml", "-o", tmp_path / "served", "--level", "content")
    verified = overlay("verify", tmp_path / "served", "--level", "content", "--json")

    assert applied.code == 0, applied.output
    assert (verified.code, verified.document["findings"]) == (0, [])
    served = read_shard(tmp_path / "served" / "model-00010-of-00010.safetensors")
    assert served == read_shard(EXAMPLE / "donor" / "model.safetensors")


def test_the_lock_refuses_another_donor(tmp_path: Path) -> None:
    script("garbage").write_garbage(EXAMPLE / "donor", tmp_path / "random")

    applied = overlay(
        "apply", EXAMPLE / "tiny-mtp.yaml", "--donor", f"draft={tmp_path / 'random'}", "-o", tmp_path / "served"
    )

    assert applied.code == 1
    assert not (tmp_path / "served").exists()


def test_garbage_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        script("garbage").write_garbage(EXAMPLE / "donor", tmp_path / name)

    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_the_lock_names_no_place_of_a_machine() -> None:
    assert '"/' not in (EXAMPLE / "tiny-mtp.lock.json").read_text()


def test_it_stays_small() -> None:
    sizes = {
        path: path.stat().st_size for path in EXAMPLE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }

    assert sum(sizes.values()) < 6_000_000
    assert sum(size for path, size in sizes.items() if "donor" in path.parts) < 1_000_000


def test_a_published_layer_has_its_experts_apart() -> None:
    torch = pytest.importorskip("torch")
    state = {
        "enorm.weight": torch.ones(4),
        "post_norm.weight": torch.ones(4),
        "mtp_block.mlp.gate.e_score_correction_bias": torch.zeros(2, dtype=torch.bfloat16),
        "mtp_block.mlp.experts.gate_up_proj": torch.arange(2 * 6 * 4.0).reshape(2, 6, 4),
        "mtp_block.mlp.experts.down_proj": torch.arange(2 * 4 * 3.0).reshape(2, 4, 3),
    }

    published = script("train").as_published(state)

    assert {name.removeprefix(DRAFT): (str(value.dtype), tuple(value.shape)) for name, value in published.items()} == {
        "enorm.weight": ("torch.bfloat16", (4,)),
        "shared_head.norm.weight": ("torch.bfloat16", (4,)),
        "mlp.gate.e_score_correction_bias": ("torch.float32", (2,)),
        **{
            f"mlp.experts.{n}.{part}_proj.weight": ("torch.bfloat16", (3, 4)) for n in (0, 1) for part in ("gate", "up")
        },
        **{f"mlp.experts.{n}.down_proj.weight": ("torch.bfloat16", (4, 3)) for n in (0, 1)},
    }
    up = published[f"{DRAFT}mlp.experts.1.up_proj.weight"].float()
    assert torch.equal(up, state["mtp_block.mlp.experts.gate_up_proj"][1, 3:])


def script(name: str) -> Any:
    """A script of the example, imported without running it."""
    specification = importlib.util.spec_from_file_location(f"tiny_mtp_{name}", EXAMPLE / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
