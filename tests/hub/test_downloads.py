"""Whole files in the Hub's cache: fetched once, held against what is listed, and taken away when they are something else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from overlay.errors import EnvironmentFault, Mismatch
from overlay.storage.hub.downloading import _proofs
from overlay.storage.hub.opening import HubRepository, open_repository
from overlay.storage.hub.patience import Patience
from overlay.storage.hub.traffic import traffic
from overlay.storage.local import file_at
from overlay.storage.proofs import Memory, ProofStore, cache_folder
from tests.loopback_hub import LoopbackHub, Seed
from tests.loopback_hub import faults as wrong
from tests.loopback_hub.faults import LISTING, Fault, Where, bytes_of, when

REPO = "org/name"
DATA = bytes(range(256)) * 2000
SHARD = "model.safetensors"
SMALL = "sub/config.json"
ASKING = Where(method="HEAD", stage="resolve")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    _proofs.cache_clear()
    monkeypatch.setattr(
        "overlay.storage.hub.patience.PATIENCE",
        Patience(tries=3, first_wait=0.01, longest_wait=0.02, silence=0.5, window=0.4, longest_asked=2),
    )
    hasty = SimpleNamespace(
        **{**vars(time), "sleep": lambda seconds: None}
    )  # the client waits seconds between attempts
    monkeypatch.setattr("huggingface_hub.file_download.time", hasty)
    monkeypatch.setattr("huggingface_hub.utils._http.time", hasty)


@pytest.fixture
def repository(hub: LoopbackHub) -> HubRepository:
    """A repository of a shard and a small file, listed."""
    opened = open_repository(REPO, hub.seed(REPO, {SHARD: DATA, SMALL: b"{}"}))
    hub.log.clear()
    return opened


def download(repository: HubRepository, path: str = SHARD) -> bytes:
    return Path(repository.download(path, lambda count: None)).read_bytes()


def cached_files() -> list[str]:
    """What lies in the Hub's cache, beside its locks and tags."""
    folder = Path(os.environ["HF_HOME"]) / "hub"
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and ".locks" not in path.parts and path.name != "CACHEDIR.TAG"
    )


# What goes well


@pytest.mark.parametrize(("path", "data"), [(SHARD, DATA), (SMALL, b"{}")])
def test_a_file_is_fetched_once(hub: LoopbackHub, repository: HubRepository, path: str, data: bytes) -> None:
    first = download(repository, path)
    asked = len(hub.log)
    again = download(open_repository(REPO, repository.listing.commit or ""), path)

    assert (data, data) == (first, again)
    assert asked == len(hub.log)
    assert repository.find(path) == repository.download(path, lambda count: None)
    assert len(data) == hub.log.bytes_of(path)


def test_every_request_and_byte_is_counted(hub: LoopbackHub, repository: HubRepository) -> None:
    before = traffic()

    download(repository)
    download(repository, SMALL)

    spent = traffic() - before
    assert (len(hub.log), len(DATA) + 2) == (spent.requests, spent.bytes)


def test_progress_is_told_in_bytes_and_nothing_is_printed(
    hub: LoopbackHub, repository: HubRepository, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    done: list[int] = []

    repository.download(SHARD, done.append)
    fetched = sum(done)
    repository.download(SHARD, done.append)

    assert (len(DATA), 2 * len(DATA)) == (fetched, sum(done))
    assert ("", "") == capfd.readouterr()


def test_what_was_hashed_is_remembered_and_not_hashed_again(
    hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.download(SHARD, lambda count: None)
    known = ProofStore().recall(file_at(path, SHARD))

    assert Memory.KNOWN is known[0]
    assert known[1] is not None
    assert known[1].sha256 == hub.files(REPO)[SHARD].sha256

    _proofs.cache_clear()
    monkeypatch.setattr("overlay.storage.hub.downloading.hash_file", None)
    assert path == repository.download(SHARD, lambda count: None)


def test_what_another_program_fetched_is_hashed_before_it_is_given_out(
    hub: LoopbackHub, repository: HubRepository
) -> None:
    path = repository.download(SHARD, lambda count: None)
    os.unlink(Path(cache_folder(), "digests.jsonl"))
    _proofs.cache_clear()
    blob = Path(path).resolve()
    blob.write_bytes(DATA[:-1] + b"!")

    with pytest.raises(Mismatch) as caught:
        repository.download(SHARD, lambda count: None)

    assert f"rm {blob}, then run the command again" == caught.value.hint
    assert blob.exists()  # it is not ours to remove
    blob.unlink()
    assert DATA == download(repository)


# N01, N03, N04, N05: bytes that are not the file


def test_a_wrong_bit_is_found_and_nothing_of_it_stays(hub: LoopbackHub, repository: HubRepository) -> None:
    with hub.failing(when(bytes_of(SHARD), wrong.flip_bit(400_000))), pytest.raises(Mismatch) as caught:
        download(repository)

    expected = hub.files(REPO)[SHARD].sha256
    assert 1 == caught.value.exit_code
    assert caught.value.line.startswith(
        f"{repository.listing.address}/{SHARD}: expected sha256 {expected}, as it is listed"
    )
    assert [] == cached_files()
    assert DATA == download(repository)


def test_a_wrong_bit_of_a_small_file_is_found_by_its_git_id(hub: LoopbackHub, repository: HubRepository) -> None:
    with hub.failing(when(bytes_of(SMALL), wrong.flip_bit())), pytest.raises(Mismatch, match="expected git id "):
        download(repository, SMALL)

    assert [] == cached_files()
    assert b"{}" == download(repository, SMALL)


def test_a_wrong_blob_that_others_use_stays_and_is_named(hub: LoopbackHub, repository: HubRepository) -> None:
    path = Path(repository.download(SHARD, lambda count: None))
    blob = path.resolve()
    blob.write_bytes(DATA[:-1] + b"!")
    other = open_repository(REPO, hub.seed(REPO, {"README.md": b"another commit"}))

    with pytest.raises(Mismatch) as caught:
        download(other)

    assert f"rm {blob}, then run the command again" == caught.value.hint
    assert (True, True, str(blob)) == (blob.exists(), path.exists(), other.find(SHARD))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (wrong.short_body(), "expected the whole file, found: Consistency check failed"),
        (wrong.long_body(), "expected the whole file, found: Consistency check failed"),
        (wrong.html_page(), "expected the whole file, found: Consistency check failed.* but has size 27"),
    ],
    ids=["short", "long", "page"],
)
def test_a_body_of_another_length_is_refused(
    hub: LoopbackHub, repository: HubRepository, fault: Fault, said: str
) -> None:
    with hub.failing(when(bytes_of(SHARD), fault)), pytest.raises(EnvironmentFault, match=said) as caught:
        download(repository)

    assert caught.value.line.isprintable()
    assert [] == cached_files()


def test_a_login_page_in_place_of_the_hub_is_no_file(hub: LoopbackHub, repository: HubRepository) -> None:
    fault = when(Where(origin="hub"), wrong.html_page())

    with hub.failing(fault), pytest.raises((EnvironmentFault, Mismatch)) as caught:
        download(repository)

    assert caught.value.line.startswith(f"{repository.listing.address}/{SHARD}: expected ")
    assert [] == cached_files()


# N02, N06, N09, N10: transfers that break


def test_a_cut_transfer_is_continued_and_told_once(hub: LoopbackHub, repository: HubRepository) -> None:
    done: list[int] = []

    with hub.failing(when(bytes_of(SHARD), wrong.cut(after=1000), times=3)):
        path = repository.download(SHARD, done.append)

    assert (DATA, len(DATA)) == (Path(path).read_bytes(), sum(done))


def test_a_transfer_that_is_always_cut_ends_and_leaves_nothing(hub: LoopbackHub, repository: HubRepository) -> None:
    with hub.failing(when(bytes_of(SHARD), wrong.cut(after=1000))), pytest.raises(EnvironmentFault, match="broken"):
        download(repository)

    assert [] == cached_files()


def test_a_range_that_is_ignored_on_the_second_attempt_spoils_nothing(hub: LoopbackHub) -> None:
    data = DATA * 41  # 21 MB: the client continues at whole pieces of 10 MB
    repository = open_repository(REPO, hub.seed(REPO, {SHARD: data}))
    first = when(bytes_of(SHARD), wrong.cut(after=15_000_000), times=1)

    with hub.failing(when(bytes_of(SHARD), wrong.ignore_range()), first):
        assert data == download(repository)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
@pytest.mark.parametrize("where", [ASKING, bytes_of(SHARD)], ids=["asking", "fetching"])
def test_a_busy_hub_is_asked_again(hub: LoopbackHub, repository: HubRepository, where: Where, status: int) -> None:
    with hub.failing(when(where, wrong.server_error(status), times=2)):
        assert DATA == download(repository)


def test_a_hub_that_stays_busy_ends_it(hub: LoopbackHub, repository: HubRepository) -> None:
    with hub.failing(when(bytes_of(SHARD), wrong.server_error())), pytest.raises(EnvironmentFault, match="status 503"):
        download(repository)

    assert 3 == len(hub.log.about(stage="bytes", method="GET"))
    assert [] == cached_files()


@pytest.mark.parametrize("fault", [wrong.drip(rate=20), wrong.stall(after=5, seconds=3)], ids=["drip", "silence"])
def test_a_transfer_that_drips_ends(
    hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    begin = time.monotonic()

    with (
        hub.failing(when(bytes_of(SHARD), fault)),
        pytest.raises(EnvironmentFault, match="expected bytes to go on arriving"),
    ):
        download(repository)

    assert time.monotonic() - begin < 15
    assert [] == cached_files()


# N07, N08, N11, N13, N15: access and commits


def test_a_gated_file_names_the_page_of_its_licence(hub: LoopbackHub, repository: HubRepository) -> None:
    hub.gate(REPO)

    with pytest.raises(EnvironmentFault) as caught:
        download(repository)

    assert f"accept the licence at {hub.url}/{REPO}, and log in: hf auth login" == caught.value.hint
    assert hub.token not in caught.value.line
    assert caught.value.line.isprintable()


@pytest.mark.parametrize(("code", "said"), [("RevisionNotFound", "this revision"), ("EntryNotFound", "this file")])
def test_what_is_gone_is_named(hub: LoopbackHub, repository: HubRepository, code: str, said: str) -> None:
    fault = when(Where(stage="resolve"), wrong.refused(404, "gone", code))

    with hub.failing(fault), pytest.raises(EnvironmentFault) as caught:
        download(repository)

    address = f"{repository.listing.address}/{SHARD}"
    assert f"{address}: expected {said}, found none: status 404 (gone)" == caught.value.line


def test_main_moves_and_the_file_is_that_of_the_commit(hub: LoopbackHub, repository: HubRepository) -> None:
    hub.seed(REPO, {SHARD: DATA[::-1]})

    assert DATA == download(repository)


def test_a_file_that_is_listed_without_its_digest_is_held_against_the_one_it_is_served_under(hub: LoopbackHub) -> None:
    commit = hub.seed(REPO, {SHARD: DATA})
    with hub.failing(when(LISTING, wrong.without_digest())):
        repository = open_repository(REPO, commit)
    assert "" == repository.listing.files[SHARD].sha256

    with hub.failing(when(bytes_of(SHARD), wrong.flip_bit())), pytest.raises(Mismatch, match="expected sha256"):
        download(repository)
    assert DATA == download(repository)


def test_a_digest_that_is_a_lie_is_found(hub: LoopbackHub) -> None:
    repository = open_repository(REPO, hub.seed(REPO, {SHARD: Seed(data=DATA, sha256="a" * 64)}))

    with pytest.raises(Mismatch, match=f"expected sha256 {'a' * 64}, as it is listed, found "):
        download(repository)

    assert [] == cached_files()


def test_offline_what_is_here_is_given_out_and_what_is_not_is_refused(
    hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    download(repository)
    hub.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert DATA == download(repository)
    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE is set"):
        download(repository, SMALL)
    assert 0 == len(hub.log)


def test_a_hub_that_is_not_there_is_named(hub: LoopbackHub, repository: HubRepository) -> None:
    hub.close()

    with pytest.raises(EnvironmentFault, match=r"expected to reach 127\.0\.0\.1"):
        download(repository)


def test_the_token_is_not_sent_to_the_storage(hub: LoopbackHub, repository: HubRepository) -> None:
    download(repository)

    assert {None} == {record.authorization for record in hub.log.about(origin="cdn")}
    assert {f"Bearer {hub.token}"} == {record.authorization for record in hub.log.about(origin="hub")}


def test_a_cache_that_cannot_be_written_is_the_machines_fault(
    hub: LoopbackHub, repository: HubRepository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))

    with pytest.raises(EnvironmentFault, match="Not a directory|system says"):
        download(repository)


KILLED = """
import sys
from overlay.storage.hub.opening import open_repository
open_repository("org/name", sys.argv[1]).download("model.safetensors", lambda count: None)
"""


def test_a_kill_leaves_no_file_and_the_next_run_fetches_it(hub: LoopbackHub, repository: HubRepository) -> None:
    with hub.failing(when(bytes_of(SHARD), wrong.stall(after=300_000, seconds=60))):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(repository.listing.commit)])
        while hub.log.bytes_of(SHARD) < 300_000:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert repository.find(SHARD) is None
    assert DATA == download(repository)
