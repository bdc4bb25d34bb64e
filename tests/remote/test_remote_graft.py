"""The founding job with base and donor on the Hub: lock, plan, apply, verify, from headers and ranges."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.storage import stores
from tests.loopback_hub.hub import LoopbackHub
from tests.support.checkpoints import GRAFT_SHARD, donor, manifest_text, read_tensors, sharded, write_graft
from tests.support.commands import overlay

BASE, DONOR = "org/base", "org/donor"


@pytest.fixture
def manifest(hub: LoopbackHub, tmp_path: Path) -> Path:
    """A manifest whose base and donor are repositories of `hub`."""
    hub.seed(BASE, sharded().files())
    hub.seed(DONOR, donor().files())
    path = tmp_path / "overlay.yaml"
    path.write_text(manifest_text(base=f"hf://{BASE}", donors={"bf16": f"hf://{DONOR}@main"}))
    return path


def _fresh_process() -> None:
    """Forget what a process remembers; only the disk stays."""
    stores._opened.clear()


def _reference(tmp_path: Path) -> Path:
    """The target that the same manifest gives when everything is local."""
    folder = tmp_path / "local"
    assert overlay("apply", write_graft(folder), "-o", folder / "serve").code == 0
    return folder / "serve"


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".overlay" not in path.parts
    }


def test_lock_reads_headers_and_small_files_and_pins_commits_and_the_hubs_digests(
    hub: LoopbackHub, manifest: Path
) -> None:
    ended = overlay("lock", manifest, "--json")

    assert ended.code == 0
    lock = ended.document["lock"]
    assert lock["base"]["commit"] == hub.head(BASE).id
    assert lock["donors"]["bf16"]["commit"] == hub.head(DONOR).id
    listed = hub.files(BASE)
    for name, pinned in lock["base"]["files"].items():
        if name.endswith(".safetensors"):
            assert pinned["sha256"] == listed[name].sha256


def test_a_second_lock_asks_once_per_branch_and_offline_nobody(
    hub: LoopbackHub, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert overlay("lock", manifest).code == 0
    first = manifest.with_name("overlay.lock.json").read_bytes()
    hub.log.clear()
    _fresh_process()

    assert overlay("lock", manifest).code == 0
    assert len(hub.log) == 0  # the lock names commits

    _fresh_process()
    assert overlay("lock", manifest, "--upgrade").code == 0
    assert len(hub.log) == 2, str(hub.log)

    hub.log.clear()
    _fresh_process()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert overlay("lock", manifest, "--upgrade").code == 0
    assert len(hub.log) == 0
    assert manifest.with_name("overlay.lock.json").read_bytes() == first


def test_apply_gives_what_local_copies_give_and_a_second_run_fetches_nothing(
    hub: LoopbackHub, manifest: Path, tmp_path: Path
) -> None:
    target = tmp_path / "serve"

    assert overlay("apply", manifest, "-o", target).code == 0
    assert _bytes_of(target) == _bytes_of(_reference(tmp_path))
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        assert (target / name).is_symlink()
    assert overlay("verify", target, "--level", "content").code == 0

    hub.log.clear()
    _fresh_process()
    again = overlay("apply", manifest, "-o", target, "--json")
    assert (again.code, again.document["changed"]) == (0, False)
    assert len(hub.log) <= 2, str(hub.log)


def test_only_the_grafts_ranges_of_the_donor_are_fetched(hub: LoopbackHub, manifest: Path, tmp_path: Path) -> None:
    assert overlay("lock", manifest).code == 0
    hub.log.clear()
    _fresh_process()
    assert overlay("apply", manifest, "-o", tmp_path / "serve").code == 0

    graft = sum(len(t.data) for t in donor().tensors if t.name.startswith("model.layers.2."))
    per_file = hub.log.bytes_by_file()
    base = sum(len(data) for name, data in sharded().files().items() if name.endswith(".safetensors"))
    assert sum(size for name, size in per_file.items() if name.endswith(".safetensors")) == graft + base, per_file


def test_plan_says_what_it_would_fetch_and_changes_nothing(hub: LoopbackHub, manifest: Path, tmp_path: Path) -> None:
    planned = overlay("plan", manifest, "-o", tmp_path / "serve", "--json")

    graft = sum(len(t.data) for t in donor().tensors if t.name.startswith("model.layers.2."))
    base = sum(len(data) for name, data in sharded().files().items() if name.endswith(".safetensors"))
    assert planned.document["plan"]["bytes"]["fetched"] == graft + base
    assert not (tmp_path / "serve").exists()
    assert "fetches" in overlay("plan", manifest, "-o", tmp_path / "serve").output


def test_a_base_that_is_cached_is_not_fetched_again(hub: LoopbackHub, manifest: Path, tmp_path: Path) -> None:
    assert overlay("apply", manifest, "-o", tmp_path / "one").code == 0
    hub.log.clear()
    _fresh_process()

    assert overlay("apply", manifest, "-o", tmp_path / "two").code == 0
    assert all("base" not in record.path or ".safetensors" not in record.path for record in hub.log), str(hub.log)


def test_main_that_moves_is_one_commit_within_a_command_and_a_mismatch_against_the_lock(
    hub: LoopbackHub, manifest: Path, tmp_path: Path
) -> None:
    assert overlay("lock", manifest).code == 0
    pinned = hub.head(BASE).id
    hub.seed(BASE, {"config.json": b'{"model_type": "other"}'})
    _fresh_process()

    assert overlay("apply", manifest, "-o", tmp_path / "serve").code == 0  # the lock names the commit
    assert hub.head(BASE).id != pinned
    ended = overlay("lock", manifest, "--upgrade", "--json")
    assert ended.document["lock"]["base"]["commit"] == hub.head(BASE).id


def test_build_inspect_diff_and_verify_take_the_same_references(
    hub: LoopbackHub, manifest: Path, tmp_path: Path
) -> None:
    assert overlay("build", manifest, "-o", tmp_path / "repo").code == 0
    assert set(read_tensors(tmp_path / "repo")) >= {"model.layers.2.scale"}
    for reference in (f"hf://{BASE}", f"https://huggingface.co/{BASE}/tree/main", f"hf://models/{BASE}@main"):
        assert overlay("inspect", reference).code == 0
    assert overlay("verify", f"hf://{BASE}").code == 0
    assert overlay("diff", f"hf://{BASE}", f"hf://{BASE}").code == 0
    ended = overlay("diff", f"hf://{BASE}", f"hf://{DONOR}", "--json")
    assert ended.code == 1


def test_diff_of_two_repositories_fetches_no_weights(hub: LoopbackHub, tmp_path: Path) -> None:
    files = sharded().files()
    hub.seed(BASE, files)
    hub.seed("org/copy", {**files, "config.json": files["config.json"] + b"\n"})

    ended = overlay("diff", f"hf://{BASE}", "hf://org/copy", "--content", "--json")

    assert ended.code == 1
    totals = ended.document["totals"]
    assert totals["identical"]["tensors"] == len(sharded().tensors), totals
    headers = sum(
        8 + int.from_bytes(data[:8], "little") for name, data in files.items() if name.endswith(".safetensors")
    )
    assert headers <= hub.log.bytes_of("*.safetensors") <= 2 * sum(map(len, files.values()))


def test_apply_from_a_published_diff_repository_in_one_command(
    hub: LoopbackHub, manifest: Path, tmp_path: Path
) -> None:
    assert overlay("build", manifest, "-o", tmp_path / "repo").code == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "repo").iterdir() if p.is_file()}
    hub.seed("me/diff", files)

    ended = overlay("apply", "hf://me/diff", "-o", tmp_path / "serve")
    assert ended.code == 0, ended
    assert _bytes_of(tmp_path / "serve") == _bytes_of(_reference(tmp_path))
    assert overlay("plan", "hf://me/diff/overlay.yaml", "-o", tmp_path / "other").code == 0
    assert overlay("verify", "hf://me/diff").code == 0


def test_apply_from_a_diff_repository_without_a_manifest_takes_the_base_that_its_card_names(
    hub: LoopbackHub, manifest: Path, tmp_path: Path
) -> None:
    assert overlay("build", manifest, "-o", tmp_path / "repo").code == 0
    kept = (GRAFT_SHARD, "model.safetensors.index.json")
    files = {name: (tmp_path / "repo" / name).read_bytes() for name in kept}
    hub.seed("me/bare", {**files, "README.md": f"---\nbase_model: {BASE}\n---\n# bare\n".encode()})

    assert overlay("apply", "hf://me/bare", "-o", tmp_path / "serve").code == 0
    assert set(read_tensors(tmp_path / "serve")) == set(read_tensors(_reference(tmp_path)))


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_missing_repository_is_one_line_and_exit_5(hub: LoopbackHub, verb: str) -> None:
    ended = overlay(verb, "hf://org/nothing")

    assert ended.code == 5
    assert ended.refusal is not None
    assert "\n" not in ended.refusal.line
    assert os.environ["HF_TOKEN"] not in str(ended.refusal)


def test_an_audit_of_a_diff_repository_holds_its_own_cards_claims_against_it(
    hub: LoopbackHub, manifest: Path, tmp_path: Path
) -> None:
    assert overlay("build", manifest, "-o", tmp_path / "repo").code == 0
    (tmp_path / "repo" / "README.md").write_text("# diff\n\nAdds 3 tensors.\n")
    hub.seed("me/diff", {p.name: p.read_bytes() for p in (tmp_path / "repo").iterdir() if p.is_file()})

    for reference in ("hf://me/diff", tmp_path / "repo"):
        ended = overlay("audit", reference, "--against", f"hf://{BASE}", "--json")
        assert [c["standing"] for c in ended.document["claims"] if "3 tensors" in c["text"]] == ["holds"], ended


def test_content_of_what_lies_elsewhere_is_not_said_to_be_read(hub: LoopbackHub) -> None:
    hub.seed(BASE, sharded().files())

    ended = overlay("verify", f"hf://{BASE}", "--level", "content")
    assert ended.code == 0
    assert "2 shards elsewhere not read" in ended.output
    assert "without an expected digest" not in ended.output


@pytest.mark.parametrize("verb", ["status", "undo", "history"])
def test_a_target_is_a_folder(verb: str) -> None:
    ended = overlay(verb, "hf://org/name")

    assert (ended.code, str(ended.refusal)) == (
        2,
        "hf://org/name: expected a folder of this machine, found an address",
    )


def test_a_config_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    folder = sharded().write(tmp_path / "base")
    with (folder / "config.json").open("r+b") as stream:
        stream.truncate(1 << 40)

    ended = overlay("verify", folder)
    assert ended.code == 1
    assert "CFG001 config.json: expected at most" in ended.output


def test_a_target_is_no_manifest_and_an_unknown_donor_is_named(hub: LoopbackHub, tmp_path: Path) -> None:
    local = write_graft(tmp_path / "local")
    assert overlay("apply", local, "-o", tmp_path / "serve").code == 0

    target = overlay("apply", tmp_path / "serve", "-o", tmp_path / "other")
    assert (target.code, "found a target" in str(target.refusal)) == (2, True)
    for verb in (["lock"], ["plan", "-o", tmp_path / "x"], ["build", "-o", tmp_path / "y"]):
        unknown = overlay(*verb, local, "--donor", "bf17=/nowhere")
        assert (unknown.code, "expected a donor of the manifest (bf16), found bf17" in str(unknown.refusal)) == (
            2,
            True,
        )


def test_a_base_that_only_a_card_names_is_said_to_come_from_there(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed("me/bare", {"README.md": b"---\nbase_model: org/gone\n---\n", GRAFT_SHARD: donor().files()[GRAFT_SHARD]})

    ended = overlay("apply", "hf://me/bare", "-o", tmp_path / "serve")
    assert ended.code == 5
    assert ended.refusal is not None
    assert "the card of hf://me/bare names it as base_model" in " ".join(ended.refusal.others)
