"""The unmodified client and the published hf-xet wheel read and write through the loopback Hub's chunk store."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import CommitOperationCopy as Copy
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import FileDuplicationError, HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from tests.loopback_hub import LoopbackHub, Seed
from tests.loopback_hub.faults import Where, refused, when

pytestmark = pytest.mark.slow  # of the Hub that tests talk to, not of what is tested

hf_xet = pytest.importorskip("hf_xet")

REPO = "org/name"
SHARD = "model.safetensors"
DATA = Random(1).randbytes(700_000)


@pytest.fixture
def api(xet_hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=xet_hub.url, token=xet_hub.token)


def test_a_seeded_file_is_listed_with_the_hash_of_its_chunks(xet_hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(DATA)
    (known,) = hf_xet.hash_files([str(path)])
    xet_hub.seed(REPO, {"a.safetensors": DATA, "b.safetensors": path, "config.json": b"{}"})

    rows = {row.path: row.xet_hash for row in api.list_repo_tree(REPO) if isinstance(row, RepoFile)}

    assert rows == {"a.safetensors": known.hash, "b.safetensors": known.hash, "config.json": None}


def test_a_snapshot_comes_out_of_the_chunk_store(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    xet_hub.seed(REPO, {SHARD: DATA, "config.json": b"{}"})

    folder = snapshot_download(REPO, endpoint=xet_hub.url, cache_dir=tmp_path)

    assert Path(folder, SHARD).read_bytes() == DATA
    assert xet_hub.log.about(origin="cdn") == []
    assert len(xet_hub.log.about(path="*/xet-read-token/*")) == 1


def test_a_range_is_streamed_out_of_the_chunk_store(xet_hub: LoopbackHub, api: HfApi) -> None:
    commit = xet_hub.seed(REPO, {SHARD: DATA})
    (row,) = api.list_repo_tree(REPO)
    assert isinstance(row, RepoFile)
    group = hf_xet.XetSession().new_download_stream_group(
        token_refresh_url=f"{xet_hub.url}/api/models/{REPO}/xet-read-token/{commit}"
    )

    read = b"".join(group.download_stream(hf_xet.XetFileInfo(row.xet_hash, row.size), 100_000, 400_001))

    assert read == DATA[100_000:400_001]


def test_the_same_file_is_served_over_plain_http_too(xet_hub: LoopbackHub, api: HfApi) -> None:
    xet_hub.seed("tester/seeded", {SHARD: DATA})
    api.create_repo("tester/new")
    api.create_commit("tester/new", [Add(SHARD, DATA)], commit_message="x")
    code = (
        "import sys; from huggingface_hub import hf_hub_download as get;"
        "[print(get(repository, sys.argv[1])) for repository in sys.argv[2:]]"
    )

    ran = subprocess.run(
        ["env", "HF_HUB_DISABLE_XET=1", sys.executable, "-c", code, SHARD, "tester/seeded", "tester/new"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert [Path(line).read_bytes() for line in ran.stdout.splitlines()] == [DATA, DATA]
    assert xet_hub.log.bytes_of(SHARD) == 2 * len(DATA)


def test_an_uploaded_file_is_committed_by_its_digest(xet_hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.write_bytes(DATA)
    api.create_repo("tester/new")

    api.create_commit("tester/new", [Add(SHARD, path), Add("config.json", b"{}")], commit_message="x")

    file = xet_hub.files("tester/new")[SHARD]
    assert (file.sha256, file.xet_hash) == (sha256(DATA).hexdigest(), hf_xet.hash_files([str(path)])[0].hash)
    assert xet_hub.read("tester/new", SHARD) == DATA
    assert xet_hub.log.about(method="PUT") == []


def test_a_file_is_copied_to_another_repository_without_a_byte(xet_hub: LoopbackHub, api: HfApi) -> None:
    commit = xet_hub.seed(REPO, {SHARD: DATA, "config.json": b"{}"})
    api.create_repo("tester/new")
    operations = [
        Copy(SHARD, "copied.safetensors", src_repo_id=REPO, src_repo_type="model", src_revision=commit),
        Copy("config.json", "config.json", src_repo_id=REPO, src_repo_type="model", src_revision=commit),
    ]

    api.create_commit("tester/new", operations, commit_message="x")

    assert xet_hub.read("tester/new", "copied.safetensors") == DATA
    assert xet_hub.read("tester/new", "config.json") == b"{}"
    assert xet_hub.log.bytes_by_file() == {"config.json": 2}
    assert xet_hub.log.about(method="PUT") == [] and xet_hub.log.about(path="*/xet-write-token/*") == []


def test_a_sparse_file_with_a_stated_hash_is_copied_unread(xet_hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(500 << 30)
    xet_hub.seed(REPO, {SHARD: Seed(data=path, sha256="5" * 64, xet_hash="6" * 64)})
    api.create_repo("tester/new")

    api.create_commit("tester/new", [Copy(SHARD, SHARD, src_repo_id=REPO, src_repo_type="model")], commit_message="x")

    file = xet_hub.files("tester/new")[SHARD]
    assert (file.sha256, file.xet_hash, file.size) == ("5" * 64, "6" * 64, 500 << 30)


def test_a_copy_within_a_repository_names_the_same_bytes(xet_hub: LoopbackHub, api: HfApi) -> None:
    xet_hub.seed(REPO, {SHARD: DATA})

    api.create_commit(REPO, [Copy(SHARD, "again.safetensors")], commit_message="x")

    assert xet_hub.read(REPO, "again.safetensors") == DATA


def test_bytes_of_another_repository_cannot_be_named_unless_they_were_copied(xet_hub: LoopbackHub, api: HfApi) -> None:
    xet_hub.seed(REPO, {SHARD: Seed(data=DATA, sha256="5" * 64, xet_hash="6" * 64)})
    api.create_repo("tester/new")
    copy = Copy(SHARD, SHARD, src_repo_id=REPO, src_repo_type="model")
    copy._is_duplicated = True  # skips the request that copies

    with pytest.raises(HfHubHTTPError, match="does not exist"):
        api.create_commit("tester/new", [copy], commit_message="x")

    assert list(xet_hub.files("tester/new")) == [".gitattributes"]


def test_a_copy_that_the_source_refuses_is_told(xet_hub: LoopbackHub, api: HfApi) -> None:
    xet_hub.seed(REPO, {SHARD: DATA})
    xet_hub.repository(REPO).large.clear()
    api.create_repo("tester/new")

    with pytest.raises(FileDuplicationError, match="not found in source"):
        api.create_commit(
            "tester/new", [Copy(SHARD, SHARD, src_repo_id=REPO, src_repo_type="model")], commit_message="x"
        )


def test_nobody_gets_chunks_of_a_gated_repository(xet_hub: LoopbackHub) -> None:
    commit = xet_hub.seed(REPO, {SHARD: DATA}, gated=True)

    with pytest.raises(ConnectionError, match="401 Unauthorized"):
        hf_xet.XetSession().new_download_stream_group(
            token_refresh_url=f"{xet_hub.url}/api/models/{REPO}/xet-read-token/{commit}"
        )


def test_an_upload_refused_by_the_chunk_store_leaves_the_repository_alone(xet_hub: LoopbackHub, api: HfApi) -> None:
    head = xet_hub.seed(REPO, {"config.json": b"{}"})

    with (
        xet_hub.failing(when(Where(path="*/xet-write-token/*"), refused(403, "no"))),
        pytest.raises(Exception, match="403|Forbidden|no"),
    ):
        api.create_commit(REPO, [Add(SHARD, DATA)], commit_message="x")

    assert xet_hub.head(REPO).id == head


def test_damage_in_the_chunk_store_reaches_the_reader(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    xet_hub.seed(REPO, {SHARD: DATA})
    assert xet_hub.state.chunks is not None

    xet_hub.state.chunks.damage()

    assert _downloaded(xet_hub, tmp_path) != DATA


def _downloaded(hub: LoopbackHub, folder: Path) -> bytes | None:
    """The file as the client has it; None when it found it damaged (hf-xet 1.8.0 does not)."""
    try:
        return Path(snapshot_download(REPO, endpoint=hub.url, cache_dir=folder), SHARD).read_bytes()
    except (OSError, RuntimeError):
        return None
