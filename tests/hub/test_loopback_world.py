"""Repositories of the loopback Hub move as those of the real one do while somebody works with them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session

from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.slow  # of the Hub that tests talk to, not of what is tested

REPO = "org/name"
SHARD = "model.safetensors"
DATA = bytes(range(256)) * 400
FILES = {"config.json": b"{}\n", SHARD: DATA}


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


def test_main_moves_on_and_the_old_commit_stays(hub: LoopbackHub, api: HfApi) -> None:
    old = hub.seed(REPO, FILES)
    new = hub.seed(REPO, {"config.json": b"[]", "more.json": b"m", SHARD: None})

    assert api.repo_info(REPO).sha == new
    assert [row.path for row in api.list_repo_tree(REPO)] == ["config.json", "more.json"]
    assert [row.path for row in api.list_repo_tree(REPO, revision=old)] == ["config.json", SHARD]


def test_a_force_push_drops_the_commits_that_nothing_else_names(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    kept = hub.seed(REPO, FILES)
    hub.tag(REPO, "v1")
    lost = hub.seed(REPO, {"config.json": b"[]"})

    new = hub.force_push(REPO, {"only.json": b"o"})

    assert [row.path for row in api.list_repo_tree(REPO)] == ["only.json"]
    assert [entry.commit_id for entry in api.list_repo_commits(REPO)] == [new]
    with pytest.raises(RevisionNotFoundError):
        api.list_repo_tree(REPO, revision=lost).__iter__().__next__()
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision=lost, endpoint=hub.url, cache_dir=tmp_path)
    assert api.resolve_revision(REPO, revision="v1").resolved == kept


def test_a_renamed_repository_is_found_under_its_old_name(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.seed(REPO, FILES)

    hub.rename(REPO, "team/other")

    assert api.repo_info(REPO).id == "team/other"
    assert [row.path for row in api.list_repo_tree(REPO)] == ["config.json", SHARD]
    for name, data in FILES.items():
        assert Path(hf_hub_download(REPO, name, endpoint=hub.url, cache_dir=tmp_path)).read_bytes() == data
    api.create_commit(REPO, [Add("new.json", b"n")], commit_message="x")
    assert hub.read("team/other", "new.json") == b"n"
    assert {record.status for record in hub.log.about(path=f"/api/models/{REPO}*")} == {307}


def test_a_repository_is_deleted_while_somebody_reads_it(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES)
    assert api.repo_exists(REPO)

    hub.delete(REPO)

    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download(REPO, SHARD)


@pytest.mark.parametrize(
    "move",
    [
        lambda hub: hub.delete(REPO),
        lambda hub: hub.rename(REPO, "team/other"),
        lambda hub: hub.force_push(REPO, {}),
    ],
    ids=["deleted", "renamed", "rewritten"],
)
def test_a_signed_address_outlives_what_happens_to_the_repository(
    hub: LoopbackHub, move: Callable[[LoopbackHub], object]
) -> None:
    hub.seed(REPO, FILES)
    url = get_session().head(hf_hub_url(REPO, SHARD, endpoint=hub.url), follow_redirects=False).headers["location"]

    move(hub)

    assert get_session().get(url).content == DATA


def test_a_repository_is_gated_or_hidden_while_somebody_reads_it(hub: LoopbackHub) -> None:
    hub.seed(REPO, FILES)
    anonymous = HfApi(endpoint=hub.url, token=False)
    anonymous.auth_check(REPO)

    hub.gate(REPO)
    assert anonymous.repo_exists(REPO)
    with pytest.raises(RepositoryNotFoundError):  # GatedRepoError is one
        anonymous.auth_check(REPO)
    hub.hide(REPO)
    assert not anonymous.repo_exists(REPO)


def test_names_of_any_script_are_kept(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    names = ["größe ü.json", "模型/配置 +&?#%20.json", "a b/c;d=e.safetensors"]
    hub.seed(REPO, {name: name.encode() for name in names})

    assert {row.path for row in api.list_repo_tree(REPO, recursive=True)} >= set(names)
    for name in names:
        path = hf_hub_download(REPO, name, endpoint=hub.url, cache_dir=tmp_path)
        assert Path(path).read_bytes() == name.encode()
    api.create_commit(REPO, [Add("новый.json", b"n")], commit_message="новый")
    assert hub.head(REPO).title == "новый" and hub.read(REPO, "новый.json") == b"n"


def test_an_empty_file_is_served(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed(REPO, {"empty.safetensors": b"", "empty.json": b""})

    for name in ("empty.safetensors", "empty.json"):
        assert Path(hf_hub_download(REPO, name, endpoint=hub.url, cache_dir=tmp_path)).read_bytes() == b""


def test_repositories_of_other_kinds_stand_beside_each_other(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    hub.seed(REPO, {"a.json": b"model"})
    hub.seed(REPO, {"a.json": b"dataset", SHARD: DATA}, kind="datasets")

    paths = [
        hf_hub_download(REPO, "a.json", repo_type=kind, endpoint=hub.url, cache_dir=tmp_path)
        for kind in ("model", "dataset")
    ]

    assert [Path(path).read_bytes() for path in paths] == [b"model", b"dataset"]
    assert api.get_paths_info(REPO, [SHARD], repo_type="dataset")[0].path == SHARD


def test_many_at_once_are_served_and_every_commit_counts(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: api.create_commit(REPO, [Add(f"{n}.json", b"n")], commit_message=f"{n}"), range(24)))
        read = list(threads.map(lambda n: list(api.list_repo_tree(REPO)), range(24)))

    assert {len(rows) for rows in read} == {26}
    assert len(api.list_repo_commits(REPO)) == 25
    assert len(hub.log.about(stage="commit")) == 24
