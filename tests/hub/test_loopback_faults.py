"""Each fault does what its name says, and no more; some show what the client makes of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.utils import build_hf_headers, get_session, httpx

from tests.loopback_hub import LoopbackHub, Seed, faults
from tests.loopback_hub.faults import LISTING, Fault, Where, bytes_of, when

pytestmark = pytest.mark.slow  # of the Hub that tests talk to, not of what is tested

REPO = "org/name"
SHARD = "model.safetensors"
DATA = bytes(range(256)) * 1200
FILES = {"config.json": b'{"model_type": "tiny"}\n', SHARD: DATA}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(follow_redirects=True, timeout=5, trust_env=False) as session:
        yield session


def _get(hub: LoopbackHub, client: httpx.Client, name: str = SHARD, span: str | None = None) -> httpx.Response:
    headers = {"Range": f"bytes={span}"} if span else {}
    return client.get(f"{hub.url}/{REPO}/resolve/main/{name}", headers=headers)


def _rows(hub: LoopbackHub, client: httpx.Client) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = client.get(f"{hub.url}/api/models/{REPO}/tree/main").json()
    return rows


@pytest.mark.parametrize("at", [0, 70_000, len(DATA) - 1])
def test_a_flipped_bit_is_where_it_was_asked_for_whatever_the_range(
    hub: LoopbackHub, client: httpx.Client, at: int
) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of(SHARD), faults.flip_bit(at)))
    damaged = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]

    whole, piece = _get(hub, client), _get(hub, client, span="100-70000")

    assert whole.content == damaged
    assert piece.content == damaged[100:70001]
    assert whole.headers["etag"] == f'"{hub.files(REPO)[SHARD].sha256}"'


def test_a_flipped_bit_is_accepted_by_the_client(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of(SHARD), faults.flip_bit()))

    path = hf_hub_download(REPO, SHARD, endpoint=hub.url, cache_dir=tmp_path)

    assert Path(path).read_bytes() != DATA
    assert Path(path).resolve().name == hub.files(REPO)[SHARD].sha256


@pytest.mark.parametrize("after", [0, 1000, 65_536, 100_000])
def test_a_cut_connection_gives_so_many_bytes_and_no_more(hub: LoopbackHub, client: httpx.Client, after: int) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of(SHARD), faults.cut(after)))
    url = _get_location(hub, client)

    got = bytearray()
    with client.stream("GET", url) as response, pytest.raises(httpx.RemoteProtocolError):
        _collect(response.iter_raw(), got)

    assert got == DATA[:after]
    assert hub.log.bytes_of(SHARD) == after


def _collect(blocks: Iterator[bytes], into: bytearray) -> None:
    for block in blocks:
        into += block


def _get_location(hub: LoopbackHub, client: httpx.Client, name: str = SHARD) -> str:
    response = client.get(f"{hub.url}/{REPO}/resolve/main/{name}", follow_redirects=False)
    return response.headers["location"]


def test_the_client_continues_after_a_cut(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of(SHARD), faults.cut(1000), times=1))

    path = hf_hub_download(REPO, SHARD, endpoint=hub.url, cache_dir=tmp_path)

    assert Path(path).read_bytes() == DATA
    assert len(hub.log.about(stage="bytes")) == 2


@pytest.mark.parametrize(
    ("fault", "content"),
    [
        (faults.short_body(3), DATA[:-3]),
        (faults.long_body(3), DATA + b"\0\0\0"),
        (faults.html_page("<html>"), b"<html>"),
    ],
)
def test_a_body_of_another_size_is_refused_by_the_client(
    hub: LoopbackHub, client: httpx.Client, tmp_path: Path, fault: Fault, content: bytes
) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of(SHARD), fault))

    assert _get(hub, client).content == content
    with pytest.raises(OSError, match="[Cc]onsistency"):
        hf_hub_download(REPO, SHARD, endpoint=hub.url, cache_dir=tmp_path)


def test_ranges_can_be_ignored_shifted_or_labelled_wrongly(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)

    with hub.failing(when(bytes_of(), faults.ignore_range())):
        ignored = _get(hub, client, span="10-19")
    with hub.failing(when(bytes_of(), faults.wrong_content_range(5))):
        mislabelled = _get(hub, client, span="10-19")
    with hub.failing(when(bytes_of(), faults.other_range(5))):
        shifted = _get(hub, client, span="10-19")

    assert (ignored.status_code, ignored.content) == (200, DATA)
    assert (mislabelled.content, mislabelled.headers["content-range"]) == (DATA[10:20], f"bytes 15-24/{len(DATA)}")
    assert (shifted.content, shifted.headers["content-range"]) == (DATA[15:25], f"bytes 15-24/{len(DATA)}")


def test_an_etag_changes_between_two_ranges(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of(), faults.etag("other"), skip=1))

    etags = [_get(hub, client, span=f"{at}-{at + 9}").headers["etag"] for at in (0, 10, 20)]

    assert etags == [f'"{hub.files(REPO)[SHARD].sha256}"', '"other"', '"other"']


def test_headers_vanish_or_change(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(Where(stage="resolve"), faults.headers(X_Linked_Etag=None, X_Repo_Commit="f" * 40)))

    response = client.head(f"{hub.url}/{REPO}/resolve/main/{SHARD}", follow_redirects=False)

    assert "x-linked-etag" not in response.headers
    assert response.headers["x-repo-commit"] == "f" * 40
    assert response.headers["x-linked-size"] == str(len(DATA))


def test_a_text_comes_compressed_and_without_a_length_for_those_who_take_it(
    hub: LoopbackHub, client: httpx.Client
) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of("*.json"), faults.gzipped()))

    taken = _get(hub, client, "config.json")
    plain = client.get(f"{hub.url}/{REPO}/resolve/main/config.json", headers={"Accept-Encoding": "identity"})

    assert taken.content == plain.content == FILES["config.json"]
    assert (taken.headers["content-encoding"], taken.headers.get("content-length")) == ("gzip", None)
    assert plain.headers["content-length"] == str(len(FILES["config.json"]))


@pytest.mark.parametrize("status", [401, 403])
def test_a_gate_that_closes_is_named_by_the_client(hub: LoopbackHub, tmp_path: Path, status: int) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(Where(stage="resolve"), faults.gated(status)))

    with pytest.raises(GatedRepoError):
        hf_hub_download(REPO, SHARD, endpoint=hub.url, cache_dir=tmp_path)


def test_a_rate_limit_says_how_long_to_wait_in_one_header_or_the_other(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)
    limited = [faults.rate_limited(7), faults.rate_limited(9, retry_after=True)]
    hub.faults.extend(when(bytes_of(), fault, times=1, skip=skip) for fault, skip in zip(limited, (0, 0), strict=True))

    answers = [_get(hub, client) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["ratelimit"] == '"api";r=0;t=7'
    assert answers[1].headers["retry-after"] == "9" and "ratelimit" not in answers[1].headers


def test_errors_pass_after_three_times(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(bytes_of(), faults.server_error(502), times=3))

    assert [_get(hub, client).status_code for _ in range(4)] == [502, 502, 502, 200]


def test_a_body_drips_and_a_body_stalls(hub: LoopbackHub) -> None:
    hub.seed(REPO, FILES)
    begun = time.monotonic()

    with httpx.Client(follow_redirects=True, timeout=0.3, trust_env=False) as client:
        with hub.failing(when(bytes_of("config.json"), faults.drip(rate=100, piece=2))):
            dripped = _get(hub, client, "config.json").content
        slow = time.monotonic() - begun
        with hub.failing(when(bytes_of(SHARD), faults.stall(after=70_000))), pytest.raises(httpx.ReadTimeout):
            _get(hub, client)

    assert dripped == FILES["config.json"] and slow >= 0.2
    assert hub.log.bytes_of(SHARD) == 70_000


def test_a_connection_is_closed_before_or_after_the_request_has_its_effect(
    hub: LoopbackHub, client: httpx.Client
) -> None:
    hub.seed(REPO, FILES)
    api = HfApi(endpoint=hub.url, token=hub.token)

    for fault, made in ((faults.dropped(), False), (faults.dropped_after(), True)):
        with hub.failing(when(Where(path="*/tag/*"), fault)), pytest.raises(Exception, match="disconnected"):
            api.create_tag(REPO, tag="v1")
        assert ("refs/tags/v1" in hub.repository(REPO).refs) == made


def test_an_answer_is_late(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(LISTING, faults.delayed(0.2)))
    begun = time.monotonic()

    _rows(hub, client)

    assert time.monotonic() - begun >= 0.2


def test_a_redirect_to_another_origin_takes_no_token_there(hub: LoopbackHub) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(Where(origin="hub", file="config.json"), faults.redirected(hub.cdn_url)))
    url = hf_hub_url(REPO, "config.json", endpoint=hub.url)

    get_session().get(url, headers=build_hf_headers(token=hub.token), follow_redirects=True)

    first, second = hub.log
    assert (first.origin, first.authorization) == ("hub", f"Bearer {hub.token}")
    assert (second.origin, second.path, second.authorization) == ("cdn", f"/{REPO}/resolve/main/config.json", None)


def test_a_token_that_leaks_is_seen(hub: LoopbackHub, client: httpx.Client) -> None:
    client.get(f"{hub.cdn_url}/x", headers={"Authorization": f"Bearer {hub.token}"})

    assert [record.path for record in hub.log.leaks()] == ["/x"]
    hub.log.clear()


def test_main_moves_between_the_listing_and_the_download(hub: LoopbackHub, tmp_path: Path) -> None:
    first = hub.seed(REPO, FILES)
    moves = faults.afterwards(lambda: hub.seed(REPO, {"config.json": b"[]"}))
    hub.faults.append(when(LISTING, moves, times=1))

    folder = snapshot_download(REPO, revision=first, endpoint=hub.url, cache_dir=tmp_path)
    moved = hf_hub_download(REPO, "config.json", endpoint=hub.url, cache_dir=tmp_path)

    assert Path(folder, "config.json").read_bytes() == FILES["config.json"]
    assert Path(moved).read_bytes() == b"[]"


def test_something_happens_before_an_answer(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(LISTING, faults.before(lambda: hub.seed(REPO, {"config.json": None})), times=1))

    assert [row["path"] for row in _rows(hub, client)] == [SHARD]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "config.json", "nul\0", ""])
def test_a_listing_names_a_file_as_it_likes(hub: LoopbackHub, client: httpx.Client, name: str) -> None:
    hub.seed(REPO, FILES)
    hub.faults.append(when(LISTING, faults.listed_as(SHARD, name)))

    assert [row["path"] for row in _rows(hub, client)] == ["config.json", name]


def test_a_listing_repeats_omits_and_lies(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)

    with hub.failing(when(LISTING, faults.listed_twice(SHARD))):
        twice = [row["path"] for row in _rows(hub, client)]
    with hub.failing(when(LISTING, faults.without_digest())):
        bare = _rows(hub, client)
    with hub.failing(when(LISTING, faults.listed_with(SHARD, size=-1))):
        negative = [row["size"] for row in _rows(hub, client)]

    assert twice == ["config.json", SHARD, SHARD]
    assert [set(row) for row in bare] == [{"type", "path", "oid", "size"}] * 2
    assert negative == [len(FILES["config.json"]), -1]


def test_a_digest_can_be_stated_that_is_a_lie(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, {SHARD: Seed(data=DATA, sha256="1" * 64)})

    assert _rows(hub, client)[0]["lfs"]["oid"] == "1" * 64
    assert _get(hub, client).content == DATA
    hub.misstate(REPO, SHARD, sha256="2" * 64)
    assert _rows(hub, client)[0]["lfs"]["oid"] == "2" * 64


def test_a_signed_address_expires_and_cannot_be_forged(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)
    url = _get_location(hub, client)
    assert client.get(url).content == DATA

    hub.expire_urls()

    assert client.get(url).status_code == 403
    assert _get(hub, client).content == DATA
    assert client.get(url.replace("Generation=0", "Generation=1")).status_code == 403
    assert client.get(urlsplit(url)._replace(query="").geturl()).status_code == 403
    hub.settings.url_lifetime = -1
    assert _get(hub, client).status_code == 403


def test_faults_apply_from_the_outside_in_and_only_inside_the_block(hub: LoopbackHub, client: httpx.Client) -> None:
    hub.seed(REPO, FILES)

    with hub.failing(when(bytes_of(), faults.cut(10)), when(bytes_of(), faults.html_page("abc"))):
        assert _get(hub, client).content == b"abc"
    assert _get(hub, client).content == DATA


def test_a_hub_closes_at_once_while_a_body_is_on_its_way(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.seed(REPO, FILES)
        hub.faults.append(when(bytes_of(), faults.stall(after=10)))
        with socket.create_connection(("127.0.0.1", int(hub.cdn_url.rsplit(":", 1)[1]))) as connection:
            with httpx.Client(trust_env=False) as client:
                target = urlsplit(_get_location(hub, client))
            connection.sendall(f"GET {target.path}?{target.query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(10).startswith(b"HTTP/1.1")
            begun = time.monotonic()
            hub.close()
            assert time.monotonic() - begun < 2
