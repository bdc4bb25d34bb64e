"""Folders of web servers, on a server of this machine: what is found, how it is read, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from overlay.errors import EnvironmentFault, InvalidInput, Mismatch
from overlay.storage.object_stores import open_store, reading
from tests.storage.range_server import Fault, Reply, Site, cut_to, serving, status, with_headers, without_ranges

SHARD = bytes(range(256)) * 12_000  # 3 MB: several pieces
INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}).encode()
FILES = {
    "m/model.safetensors.index.json": INDEX,
    "m/one.safetensors": SHARD,
    "m/two.safetensors": SHARD[:5],
    "m/config.json": b"{}",
    "m/merges.txt": b"",
    "m/unusual.bin": b"?",
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSES_S", [0.0] * 4)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(dict(FILES))) as site:
        yield site


def test_the_index_names_the_shards_and_the_usual_names_are_tried(site: Site) -> None:
    listing = open_store(f"{site.url}/m/").listing

    sizes = {name: file.size for name, file in listing.files.items()}
    assert listing.address == f"{site.url}/m"
    assert sizes == {
        "config.json": 2,
        "merges.txt": 0,
        "model.safetensors.index.json": len(INDEX),
        "one.safetensors": len(SHARD),
        "two.safetensors": 5,
    }


def test_listing_takes_one_byte_of_each_file_and_the_index(site: Site) -> None:
    open_store(f"{site.url}/m")

    ranges = {headers["Range"] for _, headers in site.asked}
    assert ranges == {"bytes=0-0", f"bytes=0-{len(INDEX) - 1}"}


def test_a_range_is_asked_for_and_no_more(site: Site) -> None:
    store = open_store(f"{site.url}/m")
    site.asked.clear()

    pieces = list(store.read("one.safetensors", 7, 2_500_000))

    assert b"".join(pieces) == SHARD[7:2_500_000]
    assert max(map(len, pieces)) <= 1 << 20
    ((path, headers),) = site.asked
    assert (path, headers["Range"]) == ("m/one.safetensors", "bytes=7-2499999")
    assert headers["If-Match"] == store.listing.files["one.safetensors"].oid


def test_an_empty_range_asks_nobody(site: Site) -> None:
    store = open_store(f"{site.url}/m")
    site.asked.clear()

    assert list(store.read("one.safetensors", 9, 9)) == []
    assert site.asked == []


def test_a_transfer_that_breaks_goes_on_where_it_stopped(site: Site) -> None:
    store = open_store(f"{site.url}/m")
    site.asked.clear()
    site.faults["m/one.safetensors"] = [cut_to(1_900_000), status(503), cut_to(10)]

    assert b"".join(store.read("one.safetensors", 0, len(SHARD))) == SHARD
    begins = [int(headers["Range"][6:].partition("-")[0]) for _, headers in site.asked]
    assert len(begins) == 4
    assert begins == sorted(begins)  # what a client's buffers held when the connection broke may come again
    assert 1_000_000 < begins[-1] <= 1_900_010


def test_a_transfer_that_breaks_again_and_again_ends(site: Site) -> None:
    store = open_store(f"{site.url}/m")
    site.asked.clear()
    site.always = cut_to(1)

    with pytest.raises(EnvironmentFault, match=r"m/one.safetensors: the store does not answer: .*5 attempts"):
        list(store.read("one.safetensors", 0, len(SHARD)))
    assert len(site.asked) == 5


def test_the_wait_that_a_server_asks_for_is_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("overlay.storage.object_stores.reading.time.sleep", waits.append)
    store = open_store(f"{site.url}/m")
    site.faults["m/one.safetensors"] = [status(429, Retry_After="7"), status(503, Retry_After="9999"), status(503)]

    assert list(store.read("one.safetensors", 0, 3)) == [SHARD[:3]]
    assert waits == [7.0, 30.0, 0.0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            with_headers(Content_Range=f"bytes 1-10/{len(SHARD)}"),
            "expected the bytes 0 to 10 of the file, found 1 to 11",
        ),
        (with_headers(Content_Range="bytes 0-9/*"), "Content-Range, found 'bytes 0-9/\\*'"),
        (with_headers(Content_Encoding="gzip"), "expected the bytes as they are"),
        (without_ranges, "expected status 206 to a request for a range, found 200"),
        (status(418), "status 418"),
        (status(302, Location="http://127.0.0.2:9/elsewhere"), "expected to be pointed to an https address"),
        (status(302, Location="file:///etc/passwd"), "expected to be pointed to an https address"),
    ],
)
def test_an_answer_that_is_not_the_one_asked_for_is_refused_at_once(site: Site, fault: Fault, words: str) -> None:
    store = open_store(f"{site.url}/m")
    site.asked.clear()
    site.always = fault

    with pytest.raises(EnvironmentFault, match=words):
        list(store.read("one.safetensors", 0, 10))
    assert len(site.asked) == 1


def test_redirections_are_followed_a_few_times(site: Site) -> None:
    store = open_store(f"{site.url}/m")
    site.faults["m/one.safetensors"] = [status(302, Location="/m/one.safetensors")] * 3

    assert list(store.read("one.safetensors", 0, 3)) == [SHARD[:3]]

    site.always = status(302, Location="/m/one.safetensors")
    with pytest.raises(EnvironmentFault, match="expected at most 5 redirections, found more"):
        list(store.read("one.safetensors", 0, 3))


@pytest.mark.parametrize("states_etag", [True, False])
@pytest.mark.parametrize("changed", [SHARD[:-1], SHARD[::-1]])
def test_a_file_that_changed_since_it_was_listed_is_refused(site: Site, changed: bytes, states_etag: bool) -> None:
    site.states_etag = states_etag
    store = open_store(f"{site.url}/m")
    site.files["m/one.safetensors"] = changed
    if not states_etag and len(changed) == len(SHARD):
        site.always = with_headers(Last_Modified="Sun, 22 Nov 2026 08:00:00 GMT")

    with pytest.raises(Mismatch, match="expected the file that was listed"):
        list(store.read("one.safetensors", 0, 10))


def test_a_file_that_changes_while_it_is_read_is_not_pieced_together(site: Site) -> None:
    store = open_store(f"{site.url}/m")
    site.faults["m/one.safetensors"] = [cut_to(1_900_000)]

    pieces = store.read("one.safetensors", 0, len(SHARD))
    next(pieces)
    site.files["m/one.safetensors"] = SHARD[::-1]

    with pytest.raises(Mismatch):
        list(pieces)


def test_a_file_that_is_gone_is_a_mismatch(site: Site) -> None:
    store = open_store(f"{site.url}/m")
    del site.files["m/one.safetensors"]

    with pytest.raises(Mismatch, match="found: status 404"):
        list(store.read("one.safetensors", 0, 10))


def test_a_server_that_says_403_of_what_is_absent_is_taken_at_its_files(site: Site) -> None:
    site.missing = Reply(403, {"Content-Length": "0"}, b"")

    assert len(open_store(f"{site.url}/m").listing.files) == 5
    with pytest.raises(EnvironmentFault, match="expected to be let in, found: status 403"):
        open_store(f"{site.url}/other")


def test_a_server_without_ranges_is_refused(site: Site) -> None:
    site.always = without_ranges

    with pytest.raises(EnvironmentFault, match="this server has no ranges") as caught:
        open_store(f"{site.url}/m")
    assert "name it by its path" in caught.value.hint


def test_a_site_that_answers_everything_with_a_page_holds_no_more_than_it_does(site: Site) -> None:
    site.missing = Reply(200, {"Content-Type": "text/html", "Content-Length": "4"}, b"<ok>")

    assert len(open_store(f"{site.url}/m").listing.files) == 5


def test_an_empty_folder_is_bad_input(site: Site) -> None:
    with pytest.raises(InvalidInput, match="expected a folder with files in it, found nothing there"):
        open_store(f"{site.url}/nothing")


def test_an_index_cannot_lead_out_of_the_folder(site: Site) -> None:
    site.files["secret.safetensors"] = b"secret"
    names = {"a": "../secret.safetensors", "b": "/secret.safetensors", "c": "http://other/x.safetensors"}
    site.files["m/model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": names}).encode()

    listing = open_store(f"{site.url}/m").listing

    assert set(listing.files) == {"config.json", "merges.txt", "model.safetensors.index.json"}
    assert all(path.startswith("m/") for path, _ in site.asked)


@pytest.mark.parametrize("text", [b"{", b"", b'{"weight_map": 1}', b"\xff" * 100])
def test_a_broken_index_names_nothing(site: Site, text: bytes) -> None:
    site.files["m/model.safetensors.index.json"] = text

    assert "one.safetensors" not in open_store(f"{site.url}/m").listing.files


def test_names_are_quoted_and_the_folder_is_taken_as_it_was_copied(site: Site) -> None:
    folder = "a%20b%2Fc/d~e"
    index = {"metadata": {}, "weight_map": {"a": "a b%3F?x=1#.safetensors"}}
    site.files[f"{folder}/model.safetensors.index.json"] = json.dumps(index).encode()
    site.files[f"{folder}/a%20b%253F%3Fx%3D1%23.safetensors"] = b"12345"

    store = open_store(f"{site.url}/{folder}")

    assert store.listing.files["a b%3F?x=1#.safetensors"].size == 5


def test_a_host_that_is_not_there_is_the_machines_fault() -> None:
    with serving(Site({})) as gone:
        pass

    with pytest.raises(EnvironmentFault, match=r"index.json: the store does not answer: .*5 attempts"):
        open_store(f"{gone.url}/m")


def test_configured_headers_go_to_the_named_host_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "https", {"headers": {"X-Key": "secret"}})
    with serving(Site({"x": SHARD})) as other:
        store = open_store(f"{site.url}/m")
        assert all(headers["X-Key"] == "secret" for _, headers in site.asked)

        site.faults["m/one.safetensors"] = [status(302, Location=f"{other.url}/x")]
        with pytest.raises(EnvironmentFault, match="https"):
            list(store.read("one.safetensors", 0, 10))
        assert other.asked == []


_WITH_TLS = """
import sys
from overlay.errors import OverlayError
from overlay.storage.object_stores import open_store
url = sys.argv[1]
try:
    store = open_store(url + "/m")
    print(sum(map(len, store.read("one.safetensors", 0, 3_000_000))))
    print(sum(map(len, store.read("two.safetensors", 0, 5))))
except OverlayError as error:
    print(type(error).__name__, error.line)
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    subprocess.run([*command.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with serving(Site(dict(FILES)), certificate) as site:
        printed = _in_a_process(site.url, {})

    assert "EnvironmentFault" in printed
    assert "certificate" in printed.lower()
    assert site.asked == []


def test_tls_is_not_left(certificate: Path) -> None:
    with serving(Site(dict(FILES)), certificate) as site, serving(Site(dict(FILES))) as plain:
        site.faults["m/two.safetensors"] = [lambda reply: reply, status(302, Location=f"{plain.url}/m/two.safetensors")]
        printed = _in_a_process(site.url, {"SSL_CERT_FILE": str(certificate)})

    assert printed.splitlines()[0] == "3000000"
    assert "expected to be pointed to an https address, found one without TLS" in printed
    assert plain.asked == []


def test_another_host_is_told_nothing_of_what_was_configured(certificate: Path) -> None:
    configured = {"FSSPEC_HTTPS_HEADERS": '{"X-Key": "secret"}', "FSSPEC_HTTPS_COOKIES": '{"session": "secret"}'}
    with serving(Site(dict(FILES)), certificate) as site, serving(Site(dict(FILES)), certificate) as other:
        site.faults["m/two.safetensors"] = [lambda reply: reply, status(302, Location=f"{other.url}/m/two.safetensors")]
        printed = _in_a_process(site.url, {"SSL_CERT_FILE": str(certificate), **configured})

    assert printed.splitlines() == ["3000000", "5"]
    assert all("secret" in headers["X-Key"] + headers["Cookie"] for _, headers in site.asked)
    ((path, headers),) = other.asked
    assert path == "m/two.safetensors"
    assert "secret" not in str(headers)


def _in_a_process(url: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", _WITH_TLS, url]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
