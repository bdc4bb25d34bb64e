"""Base and donor in an object store: the same commands give the same bytes, from ranges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overlay.storage import stores
from tests.support.checkpoints import donor, manifest_text, read_tensors, sharded
from tests.support.commands import overlay

moto = pytest.importorskip("moto.server")
BUCKET = "models"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a bucket that is empty."""
    import botocore.session

    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    client = botocore.session.get_session().create_client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=BUCKET)
    yield client
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)
    stores._opened.clear()


def _put(bucket: Any, folder: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        bucket.put_object(Bucket=BUCKET, Key=f"{folder}/{name}", Body=data)


@pytest.fixture
def manifest(bucket: Any, tmp_path: Path) -> Path:
    _put(bucket, "base", sharded().files())
    _put(bucket, "donor", donor().files())
    path = tmp_path / "overlay.yaml"
    path.write_text(manifest_text(base=f"s3://{BUCKET}/base", donors={"bf16": f"s3://{BUCKET}/donor/"}))
    return path


def test_lock_and_apply_take_a_base_and_a_donor_from_s3(manifest: Path, tmp_path: Path) -> None:
    assert overlay("lock", manifest).code == 0
    assert overlay("apply", manifest, "-o", tmp_path / "serve").code == 0

    expected = {entry.name for entry in sharded().tensors} | {"model.layers.2.norm.weight", "model.layers.2.scale"}
    assert set(read_tensors(tmp_path / "serve")) >= expected
    assert overlay("verify", tmp_path / "serve", "--level", "content").code == 0
    assert overlay("inspect", f"s3://{BUCKET}/base").code == 0
    assert overlay("diff", f"s3://{BUCKET}/base", tmp_path / "serve").code == 1


def test_a_base_that_was_written_anew_is_not_what_the_lock_says(bucket: Any, manifest: Path, tmp_path: Path) -> None:
    assert overlay("lock", manifest).code == 0
    name = "model-00001-of-00002.safetensors"
    data = bytearray(sharded().files()[name])
    data[-1] ^= 1
    _put(bucket, "base", {name: bytes(data)})
    stores._opened.clear()

    ended = overlay("apply", manifest, "--level", "content", "-o", tmp_path / "serve")
    assert ended.code == 1
    assert ended.refusal is not None
    assert name in str(ended.refusal)
    assert not (tmp_path / "serve").exists()


def test_a_folder_that_is_not_there_is_one_line(bucket: Any, tmp_path: Path) -> None:
    ended = overlay("inspect", f"s3://{BUCKET}/nothing")

    assert ended.code in (3, 5)
    assert ended.refusal is not None
    assert "\n" not in ended.refusal.line
    assert "very-secret" not in str(ended.refusal)
