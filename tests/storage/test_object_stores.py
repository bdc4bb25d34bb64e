"""Folders of an S3 server on this machine: listed, pinned, read by ranges, kept."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from overlay.errors import EnvironmentFault, InvalidInput, Mismatch
from overlay.storage.object_stores import ObjectStore, open_store, reading
from overlay.storage.object_stores.keeping import keep
from overlay.storage.remote import Remote
from tests.storage.breaking_proxy import breaking

SHARD = bytes(range(256)) * 12_000
BUCKET = "checkpoints"
Client = Any


FILES = {"m/one.safetensors": SHARD, "m/config.json": b"{}", "m/sub/x": b"1", "m/empty": b"", "m2/no": b"2"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def connection(endpoint: str) -> Client:
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="AKIAEXAMPLE", aws_secret_access_key="x"
    )


@pytest.fixture
def client(connection: Client, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A bucket with a checkpoint in it; the environment leads there."""
    monkeypatch.setattr(reading, "PAUSES_S", [0.0] * 4)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-shown")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    connection.create_bucket(Bucket=BUCKET)
    put(connection, **FILES)
    yield connection
    for entry in connection.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        connection.delete_object(Bucket=BUCKET, Key=entry["Key"])
    connection.delete_bucket(Bucket=BUCKET)


@pytest.fixture(scope="module")
def unchanged(connection: Client, endpoint: str) -> ObjectStore:
    """A folder of a bucket that no test writes to, opened once."""
    connection.create_bucket(Bucket="unchanged")
    for key, data in FILES.items():
        connection.put_object(Bucket="unchanged", Key=key, Body=data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        return open_store("s3://unchanged/m/")


def put(client: Client, **files: bytes) -> None:
    for key, data in files.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=data)


def all_of(store: ObjectStore, path: str) -> bytes:
    return b"".join(store.read(path, 0, store.listing.files[path].size))


def test_a_store_is_a_remote(unchanged: ObjectStore) -> None:
    remote: Remote = unchanged

    assert remote.listing.commit is None


def test_a_folder_lists_what_is_under_it(unchanged: ObjectStore) -> None:
    listing = unchanged.listing

    assert listing.address == "s3://unchanged/m"
    assert {name: file.size for name, file in listing.files.items()} == {
        "config.json": 2,
        "empty": 0,
        "one.safetensors": len(SHARD),
        "sub/x": 1,
    }
    assert all(file.oid and not file.sha256 for file in listing.files.values())


def test_a_bucket_is_a_folder(client: Client) -> None:
    assert "m2/no" in open_store(f"s3://{BUCKET}").listing.files


def test_names_that_lead_out_are_passed_over(client: Client) -> None:
    bad = ["m/../up", "m/./here", "m//slash", "m/folder/", "m/a\\b"]
    put(client, **dict.fromkeys(bad, b"1"))
    put(client, **{"m/ü ?#%41.json": b"abc"})

    store = open_store(f"s3://{BUCKET}/m")

    assert set(store.listing.files) == {"config.json", "empty", "one.safetensors", "sub/x", "ü ?#%41.json"}
    assert all_of(store, "ü ?#%41.json") == b"abc"


def test_more_files_than_an_answer_names(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.object_stores.s3.PAGE", 2)

    assert len(open_store(f"s3://{BUCKET}").listing.files) == 5


def test_too_many_files_are_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.object_stores.s3.MAX_OBJECTS", 3)

    with pytest.raises(EnvironmentFault, match="expected at most 3 objects under one folder"):
        open_store(f"s3://{BUCKET}/m")


@pytest.mark.parametrize(("begin", "end"), [(0, len(SHARD)), (1, 2), (7, 2_500_000), (len(SHARD) - 1, len(SHARD))])
def test_a_range_is_read(unchanged: ObjectStore, begin: int, end: int) -> None:
    pieces = list(unchanged.read("one.safetensors", begin, end))

    assert b"".join(pieces) == SHARD[begin:end]
    assert max(map(len, pieces)) <= 1 << 20


def test_nothing_is_read_of_an_empty_file(unchanged: ObjectStore) -> None:
    assert all_of(unchanged, "empty") == b""


@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (2, 1), (0, len(SHARD) + 1)])
def test_a_range_that_is_none_is_a_bug_of_the_caller(unchanged: ObjectStore, begin: int, end: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        list(unchanged.read("one.safetensors", begin, end))


def test_threads_read_at_once(unchanged: ObjectStore) -> None:
    def read(at: int) -> bytes:
        return b"".join(unchanged.read("one.safetensors", at, at + 1000))

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(read, range(0, 20_000, 1000))) == SHARD[:20_000]


@pytest.mark.parametrize("changed", [SHARD[::-1], b"short", b""])
def test_an_object_that_was_written_anew_is_refused(client: Client, changed: bytes) -> None:
    store = open_store(f"s3://{BUCKET}/m")
    put(client, **{"m/one.safetensors": changed})

    with pytest.raises(Mismatch, match="expected the file that was listed"):
        list(store.read("one.safetensors", 0, 10))


def test_an_object_that_is_gone_is_a_mismatch(client: Client) -> None:
    store = open_store(f"s3://{BUCKET}/m")
    client.delete_object(Bucket=BUCKET, Key="m/config.json")

    with pytest.raises(Mismatch, match=r"m/config.json: expected the file that was listed, found: NoSuchKey"):
        all_of(store, "config.json")


@pytest.mark.parametrize("address", [f"s3://{BUCKET}/none", "s3://no-such-bucket/m"])
def test_a_folder_that_is_not_there_is_bad_input(client: Client, address: str) -> None:
    with pytest.raises(InvalidInput, match="found nothing there"):
        open_store(address)


def test_a_name_that_was_not_listed_is_bad_input(unchanged: ObjectStore) -> None:
    with pytest.raises(InvalidInput, match="none of that name"):
        unchanged.read("nothing", 0, 1)


def test_a_server_that_is_not_there_is_the_machines_fault(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(EnvironmentFault, match=r"the store does not answer: EndpointConnectionError.*5 attempts"):
        open_store(f"s3://{BUCKET}/m")


def test_the_options_of_fsspec_hold(client: Client, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setitem(
        fsspec.config.conf, "s3", {"endpoint_url": endpoint, "client_kwargs": {"region_name": "us-east-1"}}
    )

    assert all_of(open_store(f"s3://{BUCKET}/m"), "config.json") == b"{}"


def test_a_reader_that_is_not_let_in_is_told_how(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True})
    store = open_store(f"s3://{BUCKET}/m")

    with pytest.raises(EnvironmentFault, match="expected to be let in, found: status 403") as caught:
        all_of(store, "config.json")
    assert "AWS_PROFILE" in caught.value.hint


def test_a_profile_that_is_not_there_is_named_and_no_key(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    with pytest.raises(EnvironmentFault, match="expected to be let in, found: ProfileNotFound") as caught:
        open_store(f"s3://{BUCKET}/m")
    assert "not-shown" not in f"{caught.value}{caught.value.hint}"


def test_a_whole_file_is_kept(client: Client, private_caches: Path) -> None:
    store = open_store(f"s3://{BUCKET}/m")
    counted: list[int] = []
    assert store.find("one.safetensors") is None

    path = store.download("one.safetensors", counted.append)

    assert Path(path).read_bytes() == SHARD
    assert sum(counted) == len(SHARD)
    assert path.startswith(f"{private_caches}/overlay/stores/")
    assert path.endswith("/one.safetensors")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o444
    assert store.find("one.safetensors") == path
    assert os.listdir(os.path.dirname(path)) == ["one.safetensors"]


def test_what_is_kept_is_not_fetched_again(client: Client) -> None:
    path = open_store(f"s3://{BUCKET}/m").download("one.safetensors", lambda count: None)
    store = open_store(f"s3://{BUCKET}/m")
    client.delete_object(Bucket=BUCKET, Key="m/one.safetensors")

    assert store.download("one.safetensors", lambda count: None) == path


def test_a_new_version_has_a_place_of_its_own(client: Client) -> None:
    old = open_store(f"s3://{BUCKET}/m").download("one.safetensors", lambda count: None)
    put(client, **{"m/one.safetensors": SHARD[::-1]})
    store = open_store(f"s3://{BUCKET}/m")
    assert store.find("one.safetensors") is None

    new = store.download("one.safetensors", lambda count: None)

    assert (Path(old).read_bytes(), Path(new).read_bytes()) == (SHARD, SHARD[::-1])


def test_a_kept_file_that_was_cut_is_fetched_again(client: Client) -> None:
    store = open_store(f"s3://{BUCKET}/m")
    path = Path(store.download("one.safetensors", lambda count: None))
    path.chmod(0o644)
    path.write_bytes(SHARD[:-1])

    assert Path(store.download("one.safetensors", lambda count: None)).read_bytes() == SHARD


def test_a_link_in_the_place_of_a_kept_file_is_replaced(client: Client, tmp_path: Path) -> None:
    store = open_store(f"s3://{BUCKET}/m")
    path = Path(store.download("one.safetensors", lambda count: None))
    path.unlink()
    (tmp_path / "other").write_bytes(SHARD[::-1])
    path.symlink_to(tmp_path / "other")

    assert Path(store.download("one.safetensors", lambda count: None)).read_bytes() == SHARD
    assert (tmp_path / "other").read_bytes() == SHARD[::-1]


def test_a_download_that_fails_leaves_nothing(client: Client, private_caches: Path) -> None:
    store = open_store(f"s3://{BUCKET}/m")
    put(client, **{"m/one.safetensors": SHARD[::-1]})

    with pytest.raises(Mismatch):
        store.download("one.safetensors", lambda count: None)
    assert [path for path in private_caches.rglob("*") if path.is_file()] == []


def test_no_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="expected 1152921504606846976 bytes of free space") as caught:
        keep(str(tmp_path / "x" / "big"), 1 << 60, iter([b"x"]), lambda count: None)
    assert "OVERLAY_CACHE" in caught.value.hint
    assert os.listdir(tmp_path / "x") == []


def test_a_cache_folder_that_cannot_be_made_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")

    with pytest.raises(EnvironmentFault, match="the system says"):
        keep(str(tmp_path / "x" / "file"), 1, iter([b"x"]), lambda count: None)


def test_two_downloads_at_once_give_one_whole_file(client: Client) -> None:
    store = open_store(f"s3://{BUCKET}/m")

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: store.download("one.safetensors", lambda count: None), range(8)))
    (path,) = paths
    assert Path(path).read_bytes() == SHARD
    assert os.listdir(os.path.dirname(path)) == ["one.safetensors"]


_SLOW_DOWNLOAD = """
import sys, time
from overlay.storage.object_stores.keeping import keep
def pieces():
    yield b"x" * 100
    print("begun", flush=True)
    time.sleep(60)
keep(sys.argv[1], 200, pieces(), lambda count: None)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "file"
    command = [sys.executable, "-c", _SLOW_DOWNLOAD, str(path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as dead,
        subprocess.Popen(command, stdout=subprocess.PIPE) as live,
    ):
        for process in (dead, live):
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
        dead.kill()
        dead.wait()
        assert len(os.listdir(path.parent)) == 2

        keep(str(path), 3, iter([b"abc"]), lambda count: None)

        left = set(os.listdir(path.parent)) - {"file"}
        live.kill()
    assert path.read_bytes() == b"abc"
    assert len(left) == 1


def test_a_body_that_breaks_is_continued(client: Client, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with breaking(endpoint, after=2_900_000) as (address, ranges):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = open_store(f"s3://{BUCKET}/m")

        assert all_of(store, "one.safetensors") == SHARD
    assert len(ranges) == 2
    assert 0 < int(ranges[1].partition("-")[0]) <= 2_900_000  # what the client had buffered comes again
