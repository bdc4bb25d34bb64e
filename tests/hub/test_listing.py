"""Commits and listings: how often the Hub is asked, and what of its answers is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from overlay.errors import EnvironmentFault, InvalidInput
from overlay.formats.references import HubReference
from overlay.storage.hub.listing import read_rows
from overlay.storage.hub.opening import open_repository, resolve_commit
from overlay.storage.hub.patience import Patience
from overlay.storage.hub.traffic import traffic
from overlay.storage.proofs import cache_folder
from overlay.storage.remote import RemoteFile
from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.faults import LISTING, Fault, edited, when
from tests.loopback_hub.messages import json_response

REPO = "org/name"
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "sub/ä b.txt": b"text"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overlay.storage.hub.patience.PATIENCE", Patience(tries=3, first_wait=0.01, longest_wait=0.02))


def row(path: Any = "a", size: Any = 1, **others: Any) -> dict[str, Any]:
    return {"type": "file", "path": path, "oid": "0" * 40, "size": size, **others}


# Commits


@pytest.mark.parametrize("revision", ["", "main", "v1", "a/b", "refs/pr/1"])
def test_a_revision_is_resolved_by_one_request(hub: LoopbackHub, revision: str) -> None:
    commit = hub.seed(REPO, FILES)
    hub.tag(REPO, "v1")
    hub.repository(REPO).refs.update({"refs/heads/a/b": commit, "refs/pr/1": commit})

    found = resolve_commit(HubReference(REPO, revision))

    assert (commit, 1) == (found, len(hub.log))


def test_a_commit_needs_no_request(hub: LoopbackHub) -> None:
    assert "0" * 40 == resolve_commit(HubReference(REPO, "0" * 40))
    assert 0 == len(hub.log)


def test_a_renamed_repository_is_found_under_its_old_name(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, FILES)
    hub.rename(REPO, "org/new")

    assert commit == resolve_commit(HubReference(REPO, "main"))
    repository = open_repository(REPO, commit)
    assert b"weights" == b"".join(repository.read("model.safetensors", 0, 7))


def test_a_revision_that_is_not_there_is_named(hub: LoopbackHub) -> None:
    hub.seed(REPO, FILES)

    with pytest.raises(EnvironmentFault) as caught:
        resolve_commit(HubReference(REPO, "gone"))

    assert (
        f"hf://{REPO}@gone: expected this revision, found none: status 404 (Invalid rev id: gone)" == caught.value.line
    )


def test_a_repository_that_is_not_there_may_be_private(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.seed(REPO, FILES, private=True)
    hub.state.accounts.clear()
    monkeypatch.delenv("HF_TOKEN")

    with pytest.raises(EnvironmentFault) as caught:
        resolve_commit(HubReference(REPO))

    assert "no such repository, or it is private and you are not logged in" in caught.value.problem
    assert "hf auth login" in caught.value.hint


def test_a_token_that_the_hub_does_not_know_is_said_to_be_wrong_and_not_shown(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.seed(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongButSecretToken")

    with pytest.raises(EnvironmentFault) as caught:
        resolve_commit(HubReference(REPO))

    assert "expected a valid token, found one that the Hub does not know" in caught.value.problem
    assert "hf_wrong" not in caught.value.line + caught.value.hint


def remember_ref(revision: str, commit: str) -> None:
    path = Path(os.environ["HF_HOME"]) / "hub" / "models--org--name" / "refs" / revision
    path.parent.mkdir(parents=True)
    path.write_text(commit)


def test_where_the_hub_cannot_be_reached_its_last_word_counts(hub: LoopbackHub) -> None:
    remember_ref("main", "1" * 40)
    hub.close()

    assert "1" * 40 == resolve_commit(HubReference(REPO, "main"))


def test_where_the_hub_refuses_its_last_word_does_not_count(hub: LoopbackHub) -> None:
    remember_ref("main", "1" * 40)

    with pytest.raises(EnvironmentFault, match="no such repository"):
        resolve_commit(HubReference(REPO, "main"))


def test_where_the_hub_was_never_reached_the_host_is_named(hub: LoopbackHub) -> None:
    hub.close()

    with pytest.raises(EnvironmentFault) as caught:
        resolve_commit(HubReference(REPO))

    assert "expected to reach 127.0.0.1" in caught.value.problem
    assert "HF_HUB_OFFLINE=1" in caught.value.hint


def test_a_host_without_an_address_is_named(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://no-such-host.invalid")

    with pytest.raises(EnvironmentFault, match=r"expected to (find|reach) .*no-such-host\.invalid"):
        resolve_commit(HubReference(REPO))


def test_tls_where_there_is_none_is_said_to_be_untrusted(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http:", "https:"))

    with pytest.raises(EnvironmentFault, match="expected a trusted connection"):
        resolve_commit(HubReference(REPO))


OFFLINE = """
import sys
opened = []
sys.addaudithook(lambda event, details: opened.append(event) if event.startswith("socket.") else None)
from overlay.errors import EnvironmentFault
from overlay.formats.references import HubReference
from overlay.storage.hub.opening import open_repository, resolve_commit
from overlay.storage.remote_headers import read_headers
commit = resolve_commit(HubReference("org/name", "main"))
repository = open_repository("org/name", commit)
path = repository.download("config.json", print)
assert b"{}" == b"".join(repository.read("config.json", 0, 2)) == open(path, "rb").read()
read_headers(repository, ["model.safetensors"], {})
try:
    list(repository.read("model.safetensors", 0, 1))
except EnvironmentFault as fault:
    assert "HF_HUB_OFFLINE" in fault.line, fault.line
else:
    raise AssertionError
assert not opened, opened
assert not [name for name in sys.modules if name.startswith(("huggingface_hub", "httpx"))]
"""


def test_offline_what_was_seen_is_there_without_a_socket_and_without_the_client(hub: LoopbackHub) -> None:
    from overlay.storage.remote_headers import read_headers

    commit = hub.seed(REPO, {"config.json": b"{}", "model.safetensors": b"\2\0\0\0\0\0\0\0{}"})
    remember_ref("main", commit)
    repository = open_repository(REPO, commit)
    repository.download("config.json", lambda count: None)
    read_headers(repository, ["model.safetensors"], {})

    result = subprocess.run(
        [sys.executable, "-c", OFFLINE], env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )

    assert ("", 0) == (result.stderr, result.returncode)


def test_offline_what_is_not_known_is_refused_without_a_request(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.seed(REPO, FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE is set"):
        resolve_commit(HubReference(REPO, "main"))
    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE is set"):
        open_repository(REPO, commit)
    assert 0 == len(hub.log)


# Listings


def test_a_listing_has_every_file_with_its_digests(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, FILES)

    listing = open_repository(REPO, commit).listing

    files = hub.files(REPO)
    assert (f"hf://{REPO}@{commit}", commit) == (listing.address, listing.commit)
    assert {path: RemoteFile(path, file.size, file.sha256 or "", file.blob_id) for path, file in files.items()} == dict(
        listing.files
    )


def test_a_listing_costs_one_request_a_page_and_none_later(hub: LoopbackHub) -> None:
    hub.settings.page = 4
    commit = hub.seed(REPO, {f"{number:02d}.txt": b"x" for number in range(10)})
    before = traffic()

    first = open_repository(REPO, commit).listing
    asked = len(hub.log)
    second = open_repository(REPO, commit).listing

    assert (10, 3, 3) == (len(first.files), asked, len(hub.log))
    assert first == second
    assert 3 == (traffic() - before).requests


def test_a_kept_listing_is_the_users_alone_and_one_that_was_spoilt_is_asked_for_again(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, FILES)
    listing = open_repository(REPO, commit).listing
    (kept,) = (path for path in Path(cache_folder(), "hub").rglob("*") if path.is_file())

    assert [0o600, 0o700, 0o700] == [path.stat().st_mode & 0o777 for path in (kept, kept.parent, kept.parent.parent)]

    spoilt = kept.read_bytes().replace(b"config.json", b"confIg.json")
    assert spoilt != kept.read_bytes()
    kept.write_bytes(spoilt)
    assert listing == open_repository(REPO, commit).listing
    assert 2 == len(hub.log)


def test_two_hubs_do_not_share_listings(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.seed(REPO, FILES)
    open_repository(REPO, commit)
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("127.0.0.1", "localhost"))

    open_repository(REPO, commit)

    assert 2 == len(hub.log)


def test_the_listing_of_the_hubs_own_cache_saves_the_request(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, FILES)
    entries = {
        path: {
            "size": file.size,
            "blob_id": file.blob_id,
            "lfs_sha256": file.sha256,
            "lfs_size": file.size if file.sha256 else None,
            "xet_hash": None,
        }
        for path, file in hub.files(REPO).items()
    }
    tree = Path(os.environ["HF_HOME"]) / "hub" / "models--org--name" / "trees" / f"{commit}.json"
    tree.parent.mkdir(parents=True)
    tree.write_text(json.dumps({"format_version": 1, "files": entries}))

    found = open_repository(REPO, commit).listing

    assert 0 == len(hub.log)
    tree.unlink()
    assert open_repository(REPO, commit).listing == found


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 2}', '{"format_version": 1, "files": {"a": {}}}'])
def test_a_listing_of_the_cache_that_is_none_is_passed_over(hub: LoopbackHub, text: str) -> None:
    commit = hub.seed(REPO, FILES)
    tree = Path(os.environ["HF_HOME"]) / "hub" / "models--org--name" / "trees" / f"{commit}.json"
    tree.parent.mkdir(parents=True)
    tree.write_text(text)

    assert 3 == len(open_repository(REPO, commit).listing.files)


BAD_ROWS = {
    "above": (row("../x"), "'../x'"),
    "inside": (row("a/../../x"), "'a/../../x'"),
    "dot": (row("a/./x"), "'a/./x'"),
    "empty part": (row("a//x"), "'a//x'"),
    "empty": (row(""), "''"),
    "absolute": (row("/etc/passwd"), "'/etc/passwd'"),
    "NUL": (row("a\0b"), r"'a\x00b'"),
    "newline": (row("../a\nb"), r"'../a\nb'"),
    "right-to-left": (row("../\u202ex"), r"'../\u202ex'"),
    "too long": (row("x" * 5000), "xxx"),
    "no path": (row(None), "None"),
    "number": (row(7), "7"),
    "no row": ("text", "'text'"),
    "negative size": (row(size=-1), "-1"),
    "size of text": (row(size="1"), "'1'"),
    "true size": (row(size=True), "True"),
    "no size": (row(size=None), "None"),
    "huge size": (row(size=2**63), "9223372036854775808"),
    "fraction": (row(size=1.5), "1.5"),
    "two sizes": (row(lfs={"oid": "a" * 64, "size": 2}), "found 1 and 2"),
    "sha256": (row(lfs={"oid": "../../x", "size": 1}), "'../../x'"),
}


@pytest.mark.parametrize(("bad", "named"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_one_bad_entry_refuses_the_repository(hub: LoopbackHub, bad: Any, named: str) -> None:
    commit = hub.seed(REPO, FILES)

    with hub.failing(when(LISTING, edited(lambda rows: [*rows, bad]))), pytest.raises(InvalidInput) as caught:
        open_repository(REPO, commit)

    assert f"hf://{REPO}@{commit}" == caught.value.subject
    assert named in caught.value.problem
    assert caught.value.line.isprintable()
    assert 3 == len(open_repository(REPO, commit).listing.files)  # the bad one was not kept


def test_a_path_that_stands_twice_refuses_the_repository_and_all_problems_are_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_rows("hf://a/b@c", "c", [row("x"), row("x"), row("../y")])

    assert "expected each path once, found 'x' twice" == caught.value.problem
    assert ("expected paths inside the repository, found '../y'",) == caught.value.others


def test_folders_and_unknown_kinds_of_rows_are_no_files() -> None:
    rows = [row("a"), {"type": "directory", "path": "../x"}, {"type": "submodule", "path": "s"}]

    assert ["a"] == list(read_rows("hf://a/b@c", "c", rows).files)


def test_a_file_in_lfs_without_a_sha256_has_none() -> None:
    rows = [row("a", lfs={"size": 1}), row("b", lfs=None, xetHash=7), row("c", oid=None)]

    files = read_rows("hf://a/b@c", "c", rows).files

    assert [("", "0" * 40), ("", "0" * 40), ("", "")] == [(file.sha256, file.oid) for file in files.values()]


def paging_to(url: str) -> Fault:
    """A fault: each page of a listing has one file, and `url` as the next page."""
    next_page = {"Link": f'<{url}>; rel="next"'}
    return when(LISTING, lambda request, answer: json_response([row(request.target.lstrip("/"))], headers=next_page))


def test_a_listing_that_goes_on_elsewhere_does_not_get_the_token(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, FILES)

    with hub.failing(paging_to(hub.cdn_url + "/tree/")), pytest.raises(EnvironmentFault, match="next page"):
        open_repository(REPO, commit)

    assert [] == hub.log.about(origin="cdn")


def test_a_listing_that_goes_round_in_a_circle_ends(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, FILES)

    with hub.failing(paging_to("/tree/2")), pytest.raises(InvalidInput, match="expected a listing that ends"):
        open_repository(REPO, commit)

    assert 2 == len(hub.log)


@pytest.mark.parametrize("document", [{"error": "no"}, "text", None])
def test_a_listing_that_is_no_list_is_refused(hub: LoopbackHub, document: Any) -> None:
    commit = hub.seed(REPO, FILES)

    with (
        hub.failing(when(LISTING, edited(lambda rows: document))),
        pytest.raises(InvalidInput, match="expected a list of files"),
    ):
        open_repository(REPO, commit)
