"""Publishing into the base's own repository, directly or as a pull request: shards, index and small files, nothing else."""

from __future__ import annotations

from pathlib import Path

from tests.loopback_hub import LoopbackHub
from tests.publishing.cases import BASE, BASE_CARD, REPO, SHARD, build, codes, done, publish, published, seed
from tests.support.checkpoints import INDEX
from tests.support.commands import overlay

OURS = [SHARD, INDEX, "config.json"]


def test_a_pull_request_to_the_base_completes_it(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    head = hub.head(BASE).id

    ended = publish(build(tmp_path), f"hf://{BASE}", "--create-pr")

    assert OURS == done(ended, "upload")
    assert ("change", head) == (ended.document["plan"]["mode"], ended.document["plan"]["parent"])
    assert ended.document["url"].endswith(f"/{BASE}/discussions/1")
    assert (head, {1: "Publish tiny-mtp"}) == (hub.head(BASE).id, hub.repository(BASE).pull_requests)
    assert {*hub.files(BASE), *OURS} == set(hub.files(BASE, "refs/pr/1"))
    assert BASE_CARD == hub.read(BASE, "README.md", "refs/pr/1")
    assert 0 == overlay("verify", f"hf://{BASE}@refs/pr/1").code


def test_the_owner_may_put_it_in_directly(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)

    assert OURS == done(publish(built, f"hf://{BASE}"), "upload")
    again = publish(built, f"hf://{BASE}")

    assert published(again)["plan"]["empty"]
    assert {"LCK012"} == {finding["code"] for finding in again.document["findings"]}  # it is our own commit


def test_files_of_the_base_that_changed_since_are_not_overwritten(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    hub.seed(BASE, {"config.json": b'{"model_type": "other"}'})
    head = hub.head(BASE).id

    ended = publish(built, f"hf://{BASE}", "--create-pr")

    assert {"LCK001"} == codes(ended)
    assert {"config.json"} == {f["file"] for f in ended.document["findings"] if f["code"] == "LCK001"}
    assert (head, {}) == (hub.head(BASE).id, hub.repository(BASE).pull_requests)


def test_a_pull_request_needs_a_repository(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)

    ended = publish(build(tmp_path), f"hf://{REPO}", "--create-pr")

    assert ended.refusal is not None
    assert (3, "leave --create-pr out") == (ended.code, ended.refusal.hint.partition("; ")[2][:21])
    assert ("models", REPO) not in hub.state.repositories


def test_a_pull_request_to_another_repository_has_everything(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    hub.seed("somebody/result", {"README.md": b"# Theirs\n"})
    hub.enrol("hf_other", "visitor")

    ended = publish(build(tmp_path), "hf://somebody/result", "--create-pr")

    assert {*OURS, "overlay.yaml", "overlay.lock.json", "README.md"} == set(done(ended, "upload"))
    assert ["README.md"] == list(hub.files("somebody/result"))
    assert "# Theirs" in hub.read("somebody/result", "README.md", "refs/pr/1").decode()
