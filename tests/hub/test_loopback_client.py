"""The unmodified client reads from the loopback Hub as it does from the real one, over plain HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from tests.loopback_hub import LoopbackHub, Seed
from tests.loopback_hub.contents import blob_id
from tests.loopback_hub.faults import LISTING, Fault, Where, bytes_of, rate_limited, server_error, when
from tests.support.checkpoints import shard_bytes, tensor

REPO = "org/name"
SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"
TENSORS = [tensor("a.weight", "F32", (3, 5)), tensor("b.weight", "BF16", (300, 40))]
SHARD_BYTES = shard_bytes(TENSORS, {"format": "pt"})
INDEX_BYTES = json.dumps({"metadata": {"total_size": 24060}, "weight_map": {t.name: SHARD for t in TENSORS}}).encode()
FILES = {"config.json": b'{"a": 1}\n', "sub/notes.txt": b"", SHARD: SHARD_BYTES, INDEX: INDEX_BYTES}


newer = pytest.mark.skipif(
    not hasattr(HfApi, "get_sharded_safetensors_metadata"), reason="huggingface_hub before 2.3 does not do this"
)


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


def test_a_file_of_either_kind_is_downloaded_under_the_name_of_its_digest(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed(REPO, FILES)

    paths = [hf_hub_download(REPO, name, endpoint=hub.url, cache_dir=tmp_path) for name in ("config.json", SHARD)]

    assert [Path(path).read_bytes() for path in paths] == [FILES["config.json"], SHARD_BYTES]
    assert [os.path.basename(os.path.realpath(path)) for path in paths] == [
        blob_id(FILES["config.json"]),
        sha256(SHARD_BYTES).hexdigest(),
    ]


def test_a_snapshot_holds_every_file_and_a_second_one_asks_once(hub: LoopbackHub, tmp_path: Path) -> None:
    commit = hub.seed(REPO, FILES)
    folder = Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path))
    hub.log.clear()

    again = snapshot_download(REPO, endpoint=hub.url, cache_dir=tmp_path)

    assert Path(again) == folder and folder.name == commit
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert len(hub.log) == 1
    assert hub.log.bytes_by_file() == {}


def test_large_files_come_from_the_second_origin_and_no_token_goes_there(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed(REPO, FILES)

    snapshot_download(REPO, endpoint=hub.url, token=hub.token, cache_dir=tmp_path)

    assert {record.file for record in hub.log.about(origin="cdn")} == {SHARD}
    assert {record.host.split(":")[0] for record in hub.log.about(origin="cdn")} == {"localhost"}
    assert {record.authorization for record in hub.log.about(origin="hub")} == {f"Bearer {hub.token}"}
    assert hub.log.leaks() == []


def test_a_listing_states_digests_and_comes_in_pages(hub: LoopbackHub, api: HfApi) -> None:
    hub.settings.page = 2
    hub.seed(REPO, FILES)

    rows: dict[str, Any] = {row.path: row for row in api.list_repo_tree(REPO, recursive=True)}

    assert set(rows) == {*FILES, "sub"}
    assert rows[SHARD].lfs.sha256 == sha256(SHARD_BYTES).hexdigest()
    assert rows[SHARD].lfs.size == rows[SHARD].size == len(SHARD_BYTES)
    assert rows["config.json"].lfs is None and rows["config.json"].blob_id == blob_id(FILES["config.json"])
    assert [record.query.get("cursor") for record in hub.log.about(path="*/tree/*")] == [None, "2", "4"]


def test_a_listing_of_a_folder_and_of_its_first_level(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, {"a/b/c.json": b"c", "a/d.json": b"d", "e.json": b"e"})

    assert [row.path for row in api.list_repo_tree(REPO)] == ["a", "e.json"]
    assert [row.path for row in api.list_repo_tree(REPO, "a")] == ["a/b", "a/d.json"]
    assert [row.path for row in api.list_repo_tree(REPO, "a", recursive=True)] == ["a/b", "a/b/c.json", "a/d.json"]


def test_paths_that_are_not_there_are_left_out(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES)

    rows = api.get_paths_info(REPO, ["config.json", "sub", "absent"])

    assert [row.path for row in rows] == ["config.json", "sub"]


def test_branches_tags_and_commits_resolve(hub: LoopbackHub, api: HfApi) -> None:
    first = hub.seed(REPO, FILES)
    second = hub.seed(REPO, {"config.json": b"{}"})
    side = hub.seed(REPO, {"sub/notes.txt": None}, branch="side")
    hub.tag(REPO, "v1", first)

    resolved = [api.resolve_revision(REPO, revision=name).resolved for name in ("main", "v1", "side", first)]

    assert resolved == [second, first, side, first]
    assert api.repo_info(REPO).sha == second
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second, "side": side}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
    assert [entry.commit_id for entry in api.list_repo_commits(REPO)] == [second, first]


def test_what_a_repository_is_made_of_is_told_with_digests(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES)

    siblings: dict[str, Any] = {
        entry.rfilename: entry for entry in api.model_info(REPO, files_metadata=True).siblings or []
    }

    assert set(siblings) == set(FILES)
    assert siblings[SHARD].lfs.sha256 == sha256(SHARD_BYTES).hexdigest()
    assert siblings["config.json"].size == len(FILES["config.json"])


@pytest.mark.parametrize("span", [(0, 1), (8, 700), (len(SHARD_BYTES) - 3, len(SHARD_BYTES)), (0, len(SHARD_BYTES))])
def test_a_range_is_the_bytes_that_were_asked_for(hub: LoopbackHub, span: tuple[int, int]) -> None:
    hub.seed(REPO, FILES)
    url = hf_hub_url(REPO, SHARD, endpoint=hub.url)

    response = get_session().get(url, headers={"Range": f"bytes={span[0]}-{span[1] - 1}"}, follow_redirects=True)

    assert response.status_code == 206
    assert response.content == SHARD_BYTES[slice(*span)]
    assert response.headers["content-range"] == f"bytes {span[0]}-{span[1] - 1}/{len(SHARD_BYTES)}"
    assert hub.log.bytes_by_file() == {SHARD: span[1] - span[0]}


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=-5", 206, SHARD_BYTES[-5:]),
        ("bytes=10-", 206, SHARD_BYTES[10:]),
        (f"bytes=0-{10**12}", 206, SHARD_BYTES),
        (f"bytes={len(SHARD_BYTES)}-", 416, b""),
        ("bytes=9-3", 416, b""),
        ("bytes=0-1,4-5", 200, SHARD_BYTES),
        ("lines=1-2", 200, SHARD_BYTES),
        ("bytes=-", 200, SHARD_BYTES),
    ],
)
def test_other_forms_of_a_range(hub: LoopbackHub, asked: str, status: int, content: bytes) -> None:
    hub.seed(REPO, FILES)
    url = hf_hub_url(REPO, SHARD, endpoint=hub.url)

    response = get_session().get(url, headers={"Range": asked}, follow_redirects=True)

    assert (response.status_code, response.content) == (status, content)


def test_the_file_system_of_the_client_reads_ranges(hub: LoopbackHub) -> None:
    hub.seed(REPO, FILES)
    files = HfFileSystem(endpoint=hub.url, token=hub.token, skip_instance_cache=True)

    with files.open(f"{REPO}/{SHARD}", block_size=1, cache_type="none") as stream:
        stream.seek(100)
        read = stream.read(50)

    assert read == SHARD_BYTES[100:150]
    assert hub.log.bytes_of(SHARD) == 50


def test_headers_are_read_by_range(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES)

    metadata = api.get_safetensors_metadata(REPO)

    assert metadata.weight_map == {t.name: SHARD for t in TENSORS}
    assert {name: info.shape for name, info in metadata.files_metadata[SHARD].tensors.items()} == {
        t.name: list(t.shape) for t in TENSORS
    }


@newer
def test_headers_are_read_in_one_answer(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES)

    metadata = api.get_sharded_safetensors_metadata(REPO)

    assert set(metadata.files_metadata[SHARD].tensors) == {t.name for t in TENSORS}
    assert len(hub.log) == 1


def test_sparse_files_of_any_size_are_listed_and_their_headers_read(
    hub: LoopbackHub, api: HfApi, tmp_path: Path
) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [400 << 30], "data_offsets": [0, 400 << 30]}}).encode()
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + (400 << 30))
    names = [f"model-{number:05d}-of-00282.safetensors" for number in range(1, 283)]
    hub.seed(REPO, {name: Seed(data=path, sha256=sha256(name.encode()).hexdigest()) for name in names})

    rows: list[Any] = list(api.list_repo_tree(REPO))
    parsed = api.parse_safetensors_file_metadata(REPO, names[7])

    assert [(row.path, row.lfs.sha256) for row in rows] == [(n, sha256(n.encode()).hexdigest()) for n in names]
    assert parsed.tensors["a"].shape == [400 << 30]
    assert hub.log.bytes_of("*") <= 100_001


@pytest.mark.parametrize("token", [False, True])
def test_what_is_missing_is_named(hub: LoopbackHub, token: bool) -> None:
    commit = hub.seed(REPO, FILES)
    api = HfApi(endpoint=hub.url, token=hub.token if token else False)

    with pytest.raises(RepositoryNotFoundError) as repository:
        api.repo_info("org/none")
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree(REPO, revision="none"))
    with pytest.raises(RemoteEntryNotFoundError) as entry:
        api.hf_hub_download(REPO, "none.json")

    assert repository.value.response.status_code == (404 if token else 401)
    assert entry.value.response.headers["X-Repo-Commit"] == commit
    assert not api.file_exists(REPO, "none.json") and not api.repo_exists("org/none")


def test_a_gated_repository_is_listed_but_not_served(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES, gated=True)

    assert {row.path for row in api.list_repo_tree(REPO, recursive=True)} == {*FILES, "sub"}
    with pytest.raises(GatedRepoError) as known:
        api.hf_hub_download(REPO, "config.json")
    with pytest.raises(GatedRepoError) as anonymous:
        HfApi(endpoint=hub.url, token=False).hf_hub_download(REPO, SHARD)
    with pytest.raises(GatedRepoError):
        api.auth_check(REPO)
    hub.grant(REPO)

    assert (known.value.response.status_code, anonymous.value.response.status_code) == (403, 401)
    assert Path(api.hf_hub_download(REPO, "config.json")).read_bytes() == FILES["config.json"]
    api.auth_check(REPO)


def test_a_private_repository_does_not_exist_for_others(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES, private=True)
    hub.enrol("hf_other", "other")

    assert api.repo_info(REPO).private
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=hub.url, token=token).repo_info(REPO)


def test_a_token_that_nobody_has_is_refused_everywhere(hub: LoopbackHub) -> None:
    hub.seed(REPO, FILES)

    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as refusal:
        HfApi(endpoint=hub.url, token="hf_unknown").repo_info(REPO)

    assert refusal.value.response.status_code == 401


@newer
def test_a_listing_survives_errors_that_pass(hub: LoopbackHub, api: HfApi) -> None:
    hub.seed(REPO, FILES)

    with hub.failing(when(LISTING, server_error(503), times=1), when(LISTING, rate_limited(0), times=1)):
        rows = list(api.list_repo_tree(REPO))

    assert len(rows) == 4
    assert [record.status for record in hub.log.about(path="*/tree/*")] == [503, 429, 200]


@pytest.mark.parametrize(
    ("where", "fault"), [(bytes_of(SHARD), server_error(503)), (Where(stage="resolve", file=SHARD), rate_limited(0))]
)
def test_a_header_scan_does_not_survive_one_error(hub: LoopbackHub, api: HfApi, where: Where, fault: Fault) -> None:
    hub.seed(REPO, FILES)

    with hub.failing(when(where, fault, times=1)), pytest.raises(HfHubHTTPError):
        api.get_safetensors_metadata(REPO)


@pytest.mark.parametrize("command", [["download", REPO], ["models", "info", REPO]])
def test_the_environment_leads_the_command_line_of_the_client_here(hub: LoopbackHub, command: list[str]) -> None:
    hub.seed(REPO, FILES)
    code = "from huggingface_hub.cli.hf import main; main()"

    ran = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
    assert {record.authorization for record in hub.log.about(origin="hub")} == {f"Bearer {hub.token}"}
    assert hub.log.bytes_of(SHARD) == (len(SHARD_BYTES) if command[0] == "download" else 0)
