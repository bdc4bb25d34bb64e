"""transformers itself loads what we assemble: the main model, the draft layer, and a text from both.

What its silence is worth: `missing_keys` of the main model covers every tensor of the trunk.  `unexpected_keys` never
names the draft layer, because each class ignores that one layer by its number; it is the draft model that reads it, and it
raises for every tensor that is not there.  So the two together speak of all tensors of the directory.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.oracles.checkpoints import (
    INDEX,
    Bits,
    Family,
    Pair,
    as_written,
    as_written_draft,
    bits_of,
    shards_of,
    tensors_of,
    write_model,
)
from tests.oracles.conftest import Assembled, CommandLine

PROMPT = [5, 9, 2, 7]


def load(folder: Path, dtype: str | torch.dtype = "auto") -> tuple[Any, dict[str, list[str]]]:
    """The model in `folder`, and what loading it complained of."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    return model, {kind: sorted(names) for kind, names in info.items()}


def load_draft(model: Any) -> Any:
    from transformers.modeling_layers import MtpModel

    return MtpModel.from_pretrained(model)


def main_state(model: Any) -> dict[str, Bits]:
    return {name: bits_of(tensor) for name, tensor in as_written(model.state_dict()).items()}


def draft_state(family: Family, draft: Any, like: dict[str, Bits]) -> dict[str, Bits]:
    return {
        name: bits_of(tensor, like.get(name)) for name, tensor in as_written_draft(family, draft.state_dict()).items()
    }


def require_loads(folder: Path, pair: Pair) -> None:
    """Both models load from `folder`, complain of nothing, and hold the bits of base and donor."""
    model, complaints = load(folder)
    graft = pair.draft

    assert complaints == NO_COMPLAINTS
    assert main_state(model) == tensors_of(pair.base)
    assert draft_state(pair.family, load_draft(model), graft) == graft


NO_COMPLAINTS: dict[str, list[str]] = {
    "missing_keys": [],
    "unexpected_keys": [],
    "mismatched_keys": [],
    "error_msgs": [],
}


class TestPair:
    def test_base_lies_in_many_shards_and_lacks_the_layer_that_its_config_declares(self, pair: Pair) -> None:
        config = json.loads((pair.base / "config.json").read_bytes())
        numbers = {int(name.split(".")[2]) for name in tensors_of(pair.base) if name.startswith("model.layers.")}

        assert len(shards_of(pair.base)) > 5
        assert (config["num_hidden_layers"], config["num_nextn_predict_layers"]) == (pair.family.layers, 1)
        assert numbers == set(range(pair.family.layers))

    def test_draft_layer_lies_in_several_shards_of_the_donor_and_shares_some_with_the_trunk(self, pair: Pair) -> None:
        weight_map = json.loads((pair.donor / INDEX).read_bytes())["weight_map"]
        drafts = {shard for name, shard in weight_map.items() if name in pair.draft}
        trunk = {shard for name, shard in weight_map.items() if name not in pair.draft}

        assert len(drafts) > 2
        assert 0 < len(drafts & trunk) < len(trunk)

    def test_base_and_donor_agree_in_no_tensor(self, pair: Pair) -> None:
        base, donor = tensors_of(pair.base), tensors_of(pair.donor)

        assert base.keys() < donor.keys()
        assert [name for name, bits in base.items() if donor[name] == bits] == []


class TestAssembled:
    def test_every_command_succeeds(self, assembled: Assembled) -> None:
        runs = [assembled.locked, assembled.applied, assembled.verified]

        assert [(run.code, run.errors) for run in runs] == [(0, "")] * 3

    def test_verify_reads_every_byte_and_finds_nothing(self, assembled: Assembled) -> None:
        verdict = assembled.verified.document
        shards = {name: (assembled.target / name).stat().st_size for name in shards_of(assembled.target)}

        assert (verdict["ok"], verdict["findings"]) == (True, [])
        assert (verdict["shards"], verdict["hashed_bytes"]) == (len(shards), sum(shards.values()))

    def test_a_lock_at_level_headers_leaves_only_the_built_graft_proven(self, assembled: Assembled) -> None:
        expected = {"compared": 1, "unproven": shards_of(assembled.pair.base)}

        assert assembled.verified.document["proof"] == expected

    def test_holds_every_tensor_of_the_base_and_the_draft_layer_of_the_donor(self, assembled: Assembled) -> None:
        pair = assembled.pair

        assert tensors_of(assembled.target) == tensors_of(pair.base) | pair.draft

    def test_index_states_the_bytes_and_elements_that_are_there(self, assembled: Assembled) -> None:
        stated = json.loads((assembled.target / INDEX).read_bytes())["metadata"]
        loaded = [t for shard in shards_of(assembled.target) for t in load_file(assembled.target / shard).values()]
        size = sum(tensor.numel() * tensor.element_size() for tensor in loaded)

        assert stated["total_size"] == size == assembled.verified.document["total_size"]

    def test_transformers_loads_it_without_a_complaint_and_to_the_bit(self, assembled: Assembled) -> None:
        require_loads(assembled.target, assembled.pair)

    def test_the_draft_model_refuses_the_base_alone_and_lists_every_weight(self, assembled: Assembled) -> None:
        whole, _ = load(assembled.target)
        expected = [name for name in load_draft(whole).state_dict() if name.startswith("layers.")]
        base, complaints = load(assembled.pair.base)

        with pytest.raises(RuntimeError, match="MtpModel weights are missing") as refusal:
            load_draft(base)

        text = str(refusal.value)
        assert ast.literal_eval(text[text.rindex("[") :]) == sorted(expected)
        assert complaints == NO_COMPLAINTS  # the main model alone says nothing of it


class TestGeneration:
    def test_a_text_with_the_draft_is_the_text_without(
        self, drafting: Assembled, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers.modeling_layers import MtpModel

        # In float32, so that one row and two rows at a time cannot round to different choices.
        model, _ = load(drafting.target, torch.float32)
        calls = count_calls(MtpModel, monkeypatch)
        plain = write_text(model)
        assert calls == []

        drafted = write_text(model, use_mtp=True)

        assert drafted == plain
        assert len(set(plain)) > 3  # else any two texts would be equal
        assert len(calls) >= len(plain) // 2 - 1  # one drafted token a call: at best every second token is drafted

    def test_without_the_graft_there_is_no_drafted_text(self, drafting: Assembled) -> None:
        model, _ = load(drafting.pair.base, torch.float32)

        with pytest.raises(RuntimeError, match="MtpModel weights are missing"):
            write_text(model, use_mtp=True)


def count_calls(kind: Any, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows by one with every forward pass of a `kind`."""
    calls: list[None] = []
    forward: Callable[..., Any] = kind.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return forward(*args, **kwargs)

    monkeypatch.setattr(kind, "forward", counted)
    return calls


def write_text(model: Any, **options: Any) -> list[int]:
    """The tokens that greedy generation puts after the prompt."""
    written = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0, **options
    )
    tokens: list[int] = written[0].tolist()
    return tokens[len(PROMPT) :]


@pytest.fixture(scope="session")
def difference(glm4_moe: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diff-only repository as a person makes it without this tool: graft shard, whole index, copies of sidecars."""
    return write_difference(glm4_moe, tmp_path_factory.mktemp("difference"), glm4_moe.family.draft_prefix)


def write_difference(pair: Pair, folder: Path, prefix: str) -> Path:
    """Write the donor's draft layer under the names that begin with `prefix`, and what goes with it."""
    graft: dict[str, torch.Tensor] = {}
    for shard in shards_of(pair.donor):
        graft.update({n: t for n, t in load_file(pair.donor / shard).items() if n in pair.draft})
    renamed = {name.replace(pair.family.draft_prefix, prefix): tensor for name, tensor in graft.items()}
    save_file(renamed, folder / pair.shard, metadata={"format": "pt"})
    index = json.loads((pair.base / INDEX).read_bytes())
    index["weight_map"].update(dict.fromkeys(renamed, pair.shard))
    index["metadata"]["total_size"] += sum(t.numel() * t.element_size() for t in renamed.values())
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
    for name in ("config.json", "generation_config.json"):
        shutil.copy(pair.base / name, folder)
    (folder / "README.md").write_text("# The draft layer\n")
    return folder


class TestDiffOnlyRepository:
    def test_its_index_names_shards_that_it_does_not_hold(self, difference: Path, glm4_moe: Pair) -> None:
        assert set(shards_of(difference)) == {*shards_of(glm4_moe.base), glm4_moe.shard}
        assert [path.name for path in difference.glob("*.safetensors")] == [glm4_moe.shard]

    def test_laid_over_its_base_it_loads_to_the_bit(
        self, difference: Path, glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
    ) -> None:
        target = tmp_path / "serve"

        applied = overlay("apply", "--base", glm4_moe.base, "--graft", difference, "-o", target)
        verified = overlay("verify", target, "--level", "content")

        assert (applied.code, verified.code, verified.document["findings"]) == (0, 0, [])
        assert tensors_of(target) == tensors_of(glm4_moe.base) | glm4_moe.draft
        require_loads(target, glm4_moe)

    def test_gives_the_directory_that_a_manifest_over_the_donor_gives(
        self, difference: Path, glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
    ) -> None:
        overlay("apply", "--base", glm4_moe.base, "--graft", difference, "-o", tmp_path / "one")
        overlay("apply", glm4_moe.write_manifest(tmp_path), "-o", tmp_path / "other")

        names = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_file())
        assert names == sorted(path.name for path in (tmp_path / "other").iterdir() if path.is_file())
        for name in names:
            if name == INDEX:
                one, other = (json.loads((tmp_path / side / name).read_bytes()) for side in ("one", "other"))
                assert one == other
            else:
                assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()

    def test_init_writes_a_manifest_that_gives_the_same(
        self, difference: Path, glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
    ) -> None:
        manifest, target = tmp_path / "derived.yaml", tmp_path / "serve"

        runs = [
            overlay("init", "--base", glm4_moe.base, "--graft", difference, "-o", manifest),
            overlay("lock", manifest),
            overlay("apply", manifest, "-o", target),
            overlay("verify", target, "--level", "content"),
        ]

        assert [run.code for run in runs] == [0] * 4
        assert runs[-1].document["proof"] == {"compared": len(shards_of(target)), "unproven": []}
        require_loads(target, glm4_moe)

    def test_a_layer_of_another_number_does_not_escape_the_library(
        self, glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
    ) -> None:
        # The control: no unexpected key means that the number is right, not that nobody looks.
        prefix = f"model.layers.{glm4_moe.family.layers + 1}."
        (tmp_path / "astray").mkdir()
        astray = write_difference(glm4_moe, tmp_path / "astray", prefix)

        applied = overlay("apply", "--base", glm4_moe.base, "--graft", astray, "-o", tmp_path / "serve")
        model, complaints = load(tmp_path / "serve")

        assert applied.code == 0
        assert [name for name in complaints["unexpected_keys"] if not name.startswith(prefix)] == []
        assert complaints["unexpected_keys"] != []
        with pytest.raises(RuntimeError, match="MtpModel weights are missing"):
            load_draft(model)


class TestBaseInOneFile:
    @pytest.fixture(scope="class")
    @staticmethod
    def lone(glm4_moe: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
        family = glm4_moe.family
        folder = tmp_path_factory.mktemp("lone") / "base"
        return write_model(family, folder, layers=family.layers, seed=1, max_shard_size="1GB")

    def test_has_no_index(self, lone: Path) -> None:
        assert sorted(os.listdir(lone)) == ["config.json", "generation_config.json", "model.safetensors"]

    def test_gets_an_index_and_loses_the_name_that_loaders_prefer(
        self, lone: Path, glm4_moe: Pair, overlay: CommandLine, tmp_path: Path
    ) -> None:
        graft = "model-00002-of-00002.safetensors"
        manifest, target = glm4_moe.write_manifest(tmp_path, base=str(lone), shard=graft), tmp_path / "serve"

        runs = [
            overlay("lock", manifest, "--level", "headers"),
            overlay("apply", manifest, "-o", target),
            overlay("verify", target, "--level", "content"),
        ]

        assert [run.code for run in runs] == [0, 0, 0]
        assert shards_of(target) == ["model-00001-of-00002.safetensors", graft]
        assert sorted(path.name for path in target.glob("*.safetensors")) == shards_of(target)
        require_loads(target, glm4_moe)
