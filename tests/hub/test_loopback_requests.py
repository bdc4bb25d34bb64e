"""What no client sends, or none on purpose: the loopback Hub refuses it and goes on."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from hashlib import sha256

import pytest
from huggingface_hub.utils import httpx

from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.slow  # of the Hub that tests talk to, not of what is tested

REPO = "org/name"
API = f"/api/models/{REPO}"
FILES = {"config.json": b"{}\n", "sub/a.json": b"a", "model.safetensors": b"0123456789" * 1000}


@pytest.fixture
def client(hub: LoopbackHub) -> Iterator[httpx.Client]:
    hub.seed(REPO, FILES)
    headers = {"Authorization": f"Bearer {hub.token}"}
    with httpx.Client(base_url=hub.url, headers=headers, trust_env=False, timeout=5) as session:
        yield session


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/models", 404),
        ("PUT", API, 404),
        ("GET", f"{API}/tree/main/none", 404),
        ("GET", f"{API}/tree/main/config.json", 404),
        ("GET", f"/{REPO}/resolve/main/../../../etc/passwd", 404),
        ("GET", f"/{REPO}/resolve/main/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("GET", f"/{REPO}/resolve/main/sub", 404),
        ("GET", f"{API}/discussions/7", 404),
        ("DELETE", f"{API}/branch/none", 404),
        ("DELETE", f"{API}/tag/none", 404),
        ("GET", f"{API}/xet-read-token/main", 404),
        ("GET", f"{API}/safetensors-metadata/none.json", 404),
    ],
)
def test_what_is_not_there_is_not_found(client: httpx.Client, method: str, target: str, status: int) -> None:
    assert client.request(method, target).status_code == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]\n", b'{"key": "header", "value": {}}\n{', b"\xff\n"])
def test_a_commit_that_cannot_be_read_is_refused(hub: LoopbackHub, client: httpx.Client, body: bytes) -> None:
    head = hub.head(REPO).id

    status = client.post(f"{API}/commit/main", content=body).status_code

    assert status == (200 if body == b"" else 400)
    assert (hub.head(REPO).id == head) == (status == 400)


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ({"key": "none", "value": {}}, 400),
        ({"key": "lfsFile", "value": {"path": "x", "algo": "sha256", "oid": "0" * 64, "size": 3}}, 400),
        ({"key": "deletedFile", "value": {"path": "none"}}, 404),
    ],
)
def test_one_bad_operation_undoes_the_others(
    hub: LoopbackHub, client: httpx.Client, operation: dict[str, object], status: int
) -> None:
    head = hub.head(REPO).id
    good = {"key": "file", "value": {"path": "new.json", "content": "", "encoding": "base64"}}

    answer = client.post(f"{API}/commit/main", content="\n".join(map(json.dumps, (good, operation))))

    assert answer.status_code == status
    assert hub.head(REPO).id == head


@pytest.mark.parametrize("revision", ["none", "refs%2Fheads%2Fnone"])
def test_a_commit_on_a_branch_that_is_not_there_is_refused(client: httpx.Client, revision: str) -> None:
    assert client.post(f"{API}/commit/{revision}", content="").headers["X-Error-Code"] == "RevisionNotFound"


def test_a_commit_on_a_commit_or_a_tag_is_refused(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.tag(REPO, "v1")

    assert client.post(f"{API}/commit/{hub.head(REPO).id}", content="").status_code == 400
    assert client.post(f"{API}/commit/v1", content="").status_code == 400


def test_too_many_paths_are_refused(client: httpx.Client) -> None:
    assert client.post(f"{API}/paths-info/main", data={"paths": ["x"] * 1001}).status_code == 413
    assert client.post(f"{API}/paths-info/main", json={"paths": ["sub/a.json"]}).json()[0]["path"] == "sub/a.json"


def test_a_large_body_goes_to_a_file_and_a_broken_one_leaves_none(hub: LoopbackHub, client: httpx.Client) -> None:
    data = os.urandom(3 << 20)
    digest = sha256(data).hexdigest()
    asked = {"objects": [{"oid": digest, "size": len(data)}]}
    actions = client.post(f"/{REPO}.git/info/lfs/objects/batch", json=asked).json()["objects"][0]["actions"]
    url = httpx.URL(actions["upload"]["href"])

    with socket.create_connection(("127.0.0.1", url.port)) as connection:
        head = f"PUT {url.raw_path.decode()} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert list(hub.state.folder.iterdir()) == []
    assert httpx.put(url, content=data, trust_env=False).status_code == 200

    assert client.post(actions["verify"]["href"], json=asked["objects"][0]).status_code == 200
    assert len(list(hub.state.folder.iterdir())) == 1


def test_an_upload_address_is_good_for_one_object(hub: LoopbackHub, client: httpx.Client) -> None:
    asked = {"objects": [{"oid": "0" * 64, "size": 1}]}
    answer = client.post(f"/{REPO}.git/info/lfs/objects/batch", json=asked).json()
    href = answer["objects"][0]["actions"]["upload"]["href"]

    assert httpx.put(href.replace("0" * 64, "1" * 64), content=b"x", trust_env=False).status_code == 403
    assert httpx.put(href, content=b"x", trust_env=False).status_code == 400
    assert hub.repository(REPO).large.keys() == {sha256(FILES["model.safetensors"]).hexdigest()}


def test_a_request_that_breaks_the_hub_is_answered_and_kept(hub: LoopbackHub, client: httpx.Client) -> None:
    assert client.post(f"{API}/tag/main", json={}).status_code == 500
    assert "KeyError: 'tag'" in hub.crashes[0]
    assert client.get(API).status_code == 200
    hub.crashes.clear()


def test_bytes_that_are_no_request_end_the_connection_alone(hub: LoopbackHub, client: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n")
        connection.recv(1000)

    assert client.get(API).status_code == 200


def test_the_log_tells_who_asked_what_and_how_much_was_sent(hub: LoopbackHub, client: httpx.Client) -> None:
    url = client.get(f"/{REPO}/resolve/main/model.safetensors").headers["location"]
    httpx.get(url, headers={"Range": "bytes=5-14"}, trust_env=False)

    asked, fetched = hub.log
    assert (asked.method, asked.path, asked.status, asked.sent, asked.authorization) == (
        "GET",
        f"/{REPO}/resolve/main/model.safetensors",
        302,
        0,
        f"Bearer {hub.token}",
    )
    assert (fetched.origin, fetched.range, fetched.status, fetched.sent) == ("cdn", "bytes=5-14", 206, 10)
    assert (fetched.repository, fetched.file, fetched.stage) == (REPO, "model.safetensors", "bytes")
    assert str(hub.log).splitlines()[0].startswith("302 GET")
    assert hub.log.about(file="*.safetensors", status=206) == [fetched]
