"""``overlay publish`` puts the difference on the Hub: one commit, only what is not there, and nothing on a dry run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import BASE, REPO, SHARD, build, codes, done, lock_in, publish, published, seed
from tests.support.checkpoints import INDEX, contents_of, sharded, snapshot_of
from tests.support.commands import overlay

FILES = {SHARD, INDEX, "config.json", "overlay.yaml", "overlay.lock.json", "README.md"}


@pytest.fixture(params=["hub", "xet_hub"])
def any_hub(request: pytest.FixtureRequest) -> LoopbackHub:
    """A hub over plain HTTP, and one with a chunk store."""
    found: LoopbackHub = request.getfixturevalue(request.param)
    return found


def test_the_difference_is_one_commit(any_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(any_hub)
    built = build(tmp_path)

    document = published(publish(built))

    assert {*FILES, ".gitattributes"} == set(any_hub.files(REPO))
    assert all((built / name).read_bytes() == any_hub.read(REPO, name) for name in FILES - {"README.md"})
    assert 2 == len(any_hub.repository(REPO).commits)  # the one that made the repository, and ours
    assert (document["commit"], "difference") == (any_hub.head(REPO).id, document["plan"]["mode"])
    assert document["url"].endswith(f"/{REPO}/commit/{document['commit']}")


def test_what_is_there_already_is_not_done_again(any_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(any_hub)
    built = build(tmp_path)
    commit = published(publish(built))["commit"]
    any_hub.log.clear()

    again = publish(built)

    document = published(again)
    assert (False, None, True) == (document["changed"], document["commit"], document["plan"]["empty"])
    assert FILES == set(done(again, "keep"))
    assert commit == any_hub.head(REPO).id
    assert {"GET"} == {record.method for record in any_hub.log}
    assert "nothing to do" in overlay("publish", built, f"hf://{REPO}").output


def test_a_file_that_changed_is_the_only_one_that_is_sent(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    published(publish(built))
    (built / "README.md").write_text("# My words\n")

    again = publish(built)

    assert ["README.md"] == done(again, "upload")
    assert "# My words" in hub.read(REPO, "README.md").decode()


def test_a_dry_run_only_reads(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    before = snapshot_of(built)
    hub.log.clear()

    document = published(publish(built, f"hf://{REPO}", "--dry-run"))

    assert {"GET"} == {record.method for record in hub.log}
    assert ("models", REPO) not in hub.state.repositories
    assert (True, False, None) == (document["dry_run"], document["changed"], document["plan"]["parent"])
    sizes = {entry["path"]: entry["bytes"] for entry in document["plan"]["operations"]}
    assert FILES == set(sizes)
    assert {"uploaded": sum(sizes.values()), "copied": 0, "unchanged": 0} == document["plan"]["bytes"]
    assert (built / SHARD).stat().st_size == sizes[SHARD]
    assert before == snapshot_of(built)


def test_files_that_others_put_there_stay(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    hub.seed(REPO, {"notes.txt": b"mine\n", "model-old.safetensors": b"weights"})

    published(publish(build(tmp_path)))

    assert {*FILES, "notes.txt", "model-old.safetensors"} == set(hub.files(REPO))


def test_the_manifest_may_say_where(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path, publish={"repo": REPO})

    published(publish(built, ""))

    assert set(hub.files(REPO)) >= FILES


def test_the_manifest_of_the_folder_stands_for_it(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    (built / "overlay.yaml").rename(built / "mine.yaml")
    (built / "overlay.lock.json").rename(built / "mine.lock.json")

    published(publish(built / "mine.yaml"))

    assert {*FILES, ".gitattributes"} == set(hub.files(REPO))
    assert (built / "mine.yaml").read_bytes() == hub.read(REPO, "overlay.yaml")


def test_a_manifest_that_was_not_built_is_refused(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    build(tmp_path)

    ended = publish(tmp_path / "tiny.yaml")

    assert ended.refusal is not None
    assert (2, "overlay build") == (ended.code, ended.refusal.hint[:13])


def test_message_privacy_and_place(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)

    published(publish(build(tmp_path), f"https://huggingface.co/{REPO}", "--message", "First", "--private"))

    assert "First" == hub.head(REPO).title
    assert hub.head(REPO).description.endswith(f"Base: {BASE} at {hub.head(BASE).id}.")
    assert hub.repository(REPO).private


@pytest.mark.parametrize("place", ["", "s3://bucket/x", "hf://a/b/file.txt", "hf://a/b@v1", "hf://nothing", "../there"])
def test_a_place_that_is_no_repository_is_refused(hub: LoopbackHub, tmp_path: Path, place: str) -> None:
    seed(hub)

    ended = publish(build(tmp_path), place)

    assert 2 == ended.code
    assert ended.refusal is not None


def test_evidence_keep_lists_and_files_of_engines_go_along(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "summary.md").write_text("accept length 3.1\n")
    (tmp_path / "quant.json").write_text("{}\n")
    engines = {"vllm": {"files": {"hf_quant_config.json": {"from": "quant.json"}}, "launch": {"seed": 1}}}

    published(publish(build(tmp_path, evidence=["bench/summary.md", "https://example.org/run"], engines=engines)))

    assert b"accept length 3.1\n" == hub.read(REPO, "bench/summary.md")
    assert b"{}\n" == hub.read(REPO, "engines/vllm/hf_quant_config.json")
    card = hub.read(REPO, "README.md").decode()
    assert "- [bench/summary.md](bench/summary.md)\n- https://example.org/run\n" in card
    assert f"overlay apply hf://{REPO} -o DIR --engine vllm" in card
    assert "Launch options for vllm: `--seed 1`" in card


def test_the_index_of_a_repository_that_init_made_is_composed(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    base, derived = sharded(), sharded(3)
    base.write(tmp_path / "base")
    derived.write(tmp_path / "derived")
    ended = overlay("init", "--base", tmp_path / "base", "--derived", tmp_path / "derived", "-o", tmp_path / "made")
    assert 0 == ended.code, ended.refusal
    path = tmp_path / "made" / "overlay.yaml"
    text = (
        path.read_text().replace(str(tmp_path / "base"), f"hf://{BASE}").replace("summary:", "license: mit\nsummary:")
    )
    path.write_text(text.replace(f"into {tmp_path}/derived", "into another"))
    hub.seed(BASE, base.files())
    assert 0 == overlay("lock", path).code

    ended = publish(path.parent)

    result = lock_in(path.parent)["result"]
    document = published(ended)
    index = json.loads(hub.read(REPO, INDEX))
    assert set(derived.weight_map) == set(index["weight_map"])
    assert [result["index_sha256"]] == [o["sha256"] for o in document["plan"]["operations"] if o["path"] == INDEX]
    assert any("composed from the base" in note for note in document["plan"]["notes"])


def test_a_standalone_checkpoint_is_whole(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    (tmp_path / "config.json").write_text("{}\n")

    built = build(tmp_path, base=None, files={"config.json": {"from": "config.json"}})

    assert "whole" == published(publish(built))["plan"]["mode"]
    assert set(contents_of(built) or {}) - {"."} <= set(hub.files(REPO))


def test_it_says_what_it_did_in_words(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)

    plan, first = overlay("publish", built, f"hf://{REPO}", "--dry-run"), overlay("publish", built, f"hf://{REPO}")

    assert plan.output.endswith("without --dry-run this is one commit, in a repository that is made first\n")
    assert f"hf://{REPO}: the difference only" in first.output
    assert f"published hf://{REPO} at {hub.head(REPO).id}" in first.output
    assert first.output.endswith(f"next: overlay apply hf://{REPO} -o DIR\n")


def test_a_link_into_another_folder_is_not_followed(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    (tmp_path / "secret.txt").write_text("mine\n")
    (built / "config.json").unlink()
    (built / "config.json").symlink_to(tmp_path / "secret.txt")

    ended = publish(built)

    assert {"LNK001"} == codes(ended)  # what it should be is composed from the base
    assert ("models", REPO) not in hub.state.repositories
