"""Files: what each engine opens, in which order, and what becomes of an index that does not fit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from overlay.engines.files import natural_key
from tests.engines.conftest import Predict
from tests.engines.tiny import CONFIGS, DRAFT, DRAFT_SHARD, HIDDEN, TRUNK_SHARD, Tiny, good, trunk
from tests.support.checkpoints import INDEX, shard_bytes, tensor

VLLM, OLD_VLLM, SGLANG, OLD_SGLANG = "vllm==0.33.0", "vllm==0.25.1", "sglang==0.5.23", "sglang==0.5.13"
ENGINES = (VLLM, SGLANG, "transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return good().write(tmp_path / "good")


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / INDEX).read_bytes())
    change(value)
    (folder / INDEX).write_text(json.dumps(value))


def rename_in_index(folder: Path, old: str, new: str) -> None:
    def change(value: dict[str, Any]) -> None:
        value["weight_map"] = {k: new if shard == old else shard for k, shard in value["weight_map"].items()}

    edit_index(folder, change)


def told(predict: Predict, folder: Path, engine: str) -> tuple[str, str, set[str]]:
    found = predict(folder, engine)
    return found.target, found.draft, {said.finding.code for said in found.remarks} - {"ENG021", "ENG023"}


@pytest.mark.parametrize(
    ("engine", "target", "draft"),
    [
        (VLLM, "refuses", "refuses"),
        (OLD_VLLM, "ok", "refuses"),
        (SGLANG, "refuses", "refuses"),
        (OLD_SGLANG, "ok", "absent"),
        ("transformers", "refuses", "refuses"),
    ],
)
def test_the_index_names_a_shard_that_is_not_there(
    predict: Predict, folder: Path, engine: str, target: str, draft: str
) -> None:
    (folder / DRAFT_SHARD).unlink()

    found = told(predict, folder, engine)

    assert (target, draft) == found[:2]
    assert "IDX003" in found[2]


def test_a_dangling_link_is_refused_by_all(predict: Predict, folder: Path) -> None:
    (folder / DRAFT_SHARD).unlink()
    (folder / DRAFT_SHARD).symlink_to("gone")

    for engine in ENGINES:
        assert ("refuses", "refuses") == told(predict, folder, engine)[:2]
        assert "LNK002" in told(predict, folder, engine)[2]


@pytest.mark.parametrize(("engine", "draft"), [(VLLM, "refuses"), (SGLANG, "absent"), ("transformers", "refuses")])
def test_a_shard_that_the_index_does_not_name_is_inert(predict: Predict, folder: Path, engine: str, draft: str) -> None:
    edit_index(folder, lambda value: [value["weight_map"].pop(k) for k in [*value["weight_map"]] if DRAFT in k])

    target, of_draft, codes = told(predict, folder, engine)

    assert ("ok", draft) == (target, of_draft)
    assert "IDX010" in codes


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
def test_tensors_that_are_not_mapped_are_loaded(predict: Predict, folder: Path, engine: str) -> None:
    edit_index(folder, lambda value: value["weight_map"].pop(f"{DRAFT}eh_proj.weight"))

    assert ("ok", "ok", {"IDX005"}) == told(predict, folder, engine)


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
def test_a_phantom_is_named_and_changes_nothing(predict: Predict, folder: Path, engine: str) -> None:
    edit_index(folder, lambda value: value["weight_map"].update({"model.layers.0.ghost": TRUNK_SHARD}))

    assert ("ok", "ok", {"IDX004"}) == told(predict, folder, engine)


PATHS = [
    ("sub", VLLM, "refuses", "refuses"),
    ("sub", SGLANG, "ok", "absent"),
    (".", VLLM, "refuses", "refuses"),
    (".", SGLANG, "ok", "absent"),
    (".", OLD_VLLM, "ok", "refuses"),
]


@pytest.mark.parametrize(("where", "engine", "target", "draft"), PATHS)
def test_a_path_in_the_index(predict: Predict, folder: Path, where: str, engine: str, target: str, draft: str) -> None:
    (folder / where).mkdir(exist_ok=True)
    (folder / DRAFT_SHARD).rename(folder / where / DRAFT_SHARD)
    rename_in_index(folder, DRAFT_SHARD, f"{where}/{DRAFT_SHARD}")

    found = told(predict, folder, engine)

    assert (target, draft) == found[:2]
    assert "IDX002" in found[2]
    assert "ok" == told(predict, folder, "transformers")[0]


def test_two_copies_the_last_file_wins_and_orders_differ(predict: Predict, folder: Path) -> None:
    name = f"{DRAFT}eh_proj.weight"
    for number in (2, 10):
        data = shard_bytes(
            [tensor(name, "BF16", (HIDDEN, 2 * HIDDEN))._replace(data=bytes([number]) * HIDDEN * HIDDEN * 4)]
        )
        (folder / f"zz-{number}.safetensors").write_bytes(data)
    original = (folder / DRAFT_SHARD).read_bytes()
    edit_index(
        folder,
        lambda value: value["weight_map"].update({name: "zz-10.safetensors", "x": "zz-2.safetensors"}),
    )

    vllm, sglang = (predict(folder, engine) for engine in (VLLM, SGLANG))

    assert "zz-10.safetensors" == vllm.opening.files[-1]
    assert "zz-2.safetensors" == sglang.opening.files[-1]
    assert ("ok", "wrong") == (vllm.draft, sglang.draft)
    assert {"IDX007", "ENG002"} <= {said.finding.code for said in vllm.remarks}
    assert original == (folder / DRAFT_SHARD).read_bytes()


def test_two_names_of_one_file_cannot_differ(predict: Predict, folder: Path) -> None:
    (folder / "zz.safetensors").symlink_to(DRAFT_SHARD)
    edit_index(folder, lambda value: value["weight_map"].update({f"{DRAFT}eh_proj.weight": "zz.safetensors"}))

    for engine in (VLLM, SGLANG):
        found = predict(folder, engine)
        assert ("ok", "ok") == (found.target, found.draft)
        assert "none" == {said.finding.code: said.effect for said in found.remarks}["IDX007"]


def test_links_out_of_the_folder_are_followed_as_engines_follow_them(predict: Predict, folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    for name in (TRUNK_SHARD, DRAFT_SHARD, "config.json"):
        (folder / name).rename(elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)

    for engine in (VLLM, SGLANG):
        assert ("ok", "ok", set()) == told(predict, folder, engine)


def test_a_consolidated_file_takes_the_place_of_all_others_in_vllm(predict: Predict, folder: Path) -> None:
    (folder / "consolidated.safetensors").write_bytes(shard_bytes([tensor("x")]))

    assert ("consolidated.safetensors",) == predict(folder, VLLM).opening.files
    assert "refuses" == told(predict, folder, VLLM)[0]
    assert ("ok", "ok") == told(predict, folder, SGLANG)[:2]


def test_model_safetensors_beside_an_index_is_all_that_transformers_opens(predict: Predict, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(shard_bytes([tensor("model.norm.weight", "BF16", (HIDDEN,))]))

    assert ("wrong", True) == (
        told(predict, folder, "transformers")[0],
        "IDX015" in told(predict, folder, "transformers")[2],
    )
    assert ("ok", "ok", {"IDX010"}) == told(predict, folder, VLLM)


def test_an_index_without_metadata(predict: Predict, folder: Path) -> None:
    edit_index(folder, lambda value: value.pop("metadata"))

    assert ("refuses", True) == (
        told(predict, folder, "transformers")[0],
        "IDX009" in told(predict, folder, "transformers")[2],
    )
    assert ("ok", "ok", set()) == told(predict, folder, VLLM)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(predict: Predict, folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)

    for engine in ENGINES:
        assert ("refuses", "refuses") == told(predict, folder, engine)[:2]
        assert "IDX001" in told(predict, folder, engine)[2]


def test_no_index_at_all(predict: Predict, folder: Path) -> None:
    (folder / INDEX).unlink()

    assert ("ok", "ok", set()) == told(predict, folder, VLLM)
    assert ("refuses", "refuses") == told(predict, folder, "transformers")[:2]


def test_mtp_safetensors_is_added_for_glm4_alone(predict: Predict, tmp_path: Path) -> None:
    for family, expected in (("glm4_moe", "ok"), ("deepseek_v3", "absent")):
        bare = Tiny(family=family, trunk=trunk(family), config=CONFIGS[family]).write(tmp_path / family)
        (bare / "mtp.safetensors").write_bytes(shard_bytes(good(family).draft))
        found = predict(bare, SGLANG)

        assert expected == found.draft
        assert (family == "deepseek_v3") == ("ENG008" in {said.finding.code for said in found.remarks})


def test_a_name_that_globs_pass_over(predict: Predict, folder: Path) -> None:
    (folder / DRAFT_SHARD).rename(folder / "mtp.safetensors")
    rename_in_index(folder, DRAFT_SHARD, "mtp.safetensors")

    assert ("refuses", "refuses", {"IDX017", "MTP001", "IDX010"}) >= told(predict, folder, "llama.cpp")[:2]
    assert ("ok", "absent") == told(predict, folder, "mlx")[:2]
    assert ("ok", "ok", set()) == told(predict, folder, VLLM)


def test_empty_metadata_of_a_header_is_noted(predict: Predict, folder: Path) -> None:
    data = (folder / DRAFT_SHARD).read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = data[8 : 8 + length].replace(b'{"format": "pt"}', b"{}".ljust(16))
    (folder / DRAFT_SHARD).write_bytes(data[:8] + table + data[8 + length :])

    assert ("ok", "ok", {"ENG001"}) == told(predict, folder, VLLM)


@pytest.mark.parametrize("word", ["eagle-x", "EAGLE3", "DFlash"])
def test_a_path_that_names_another_kind_of_draft(predict: Predict, folder: Path, word: str) -> None:
    moved = folder.rename(folder.parent / word)

    assert ("ok", "wrong", {"ENG006"}) == told(predict, moved, VLLM)
    assert ("ok", "ok", set()) == told(predict, moved, SGLANG)


def test_a_config_without_a_dtype_and_a_stray_output_layer(predict: Predict, tmp_path: Path) -> None:
    tied = good().with_config(dtype=..., tie_word_embeddings=True)
    folder = tied.write(tmp_path / "tied")
    (folder / "old.safetensors").write_bytes(shard_bytes([tensor("lm_head.weight")]))

    assert {"ENG004", "ENG005", "IDX010"} <= told(predict, folder, VLLM)[2]
    assert "ENG005" not in told(predict, folder, "vllm==0.28.0")[2]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("text", ["", "{}", "[1]", "{"])
def test_a_config_that_says_nothing(predict: Predict, folder: Path, engine: str, text: str) -> None:
    (folder / "config.json").write_text(text)

    assert ("refuses", "refuses") == told(predict, folder, engine)[:2]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_shard(predict: Predict, folder: Path, engine: str) -> None:
    (folder / DRAFT_SHARD).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")

    target, draft, codes = told(predict, folder, engine)

    assert ("refuses", "refuses") == (target, draft)
    assert codes & {"SHD001", "SHD002"}


def test_natural_order_counts() -> None:
    names = ["mtp", "model-10-of-12", "model-2-of-3", "aa_overlay", "model-00046-of-00046", "layer78"]

    assert ["aa_overlay", "layer78", "model-2-of-3", "model-10-of-12", "model-00046-of-00046", "mtp"] == sorted(
        names, key=natural_key
    )
