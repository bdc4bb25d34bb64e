"""A publish that is cut off leaves the repository as it was, and the next run goes on; a repository that moved is not
overwritten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.loopback_hub import LoopbackHub
from tests.loopback_hub.faults import Answer
from tests.loopback_hub.messages import Request, Response, json_response
from tests.publishing.cases import REPO, SHARD, build, publish, published, seed
from tests.support.checkpoints import Checkpoint, tensor
from tests.support.commands import overlay


def large_donor() -> Checkpoint:
    """Two shards, each of a graft of its own."""
    return Checkpoint(
        shards={
            "a.safetensors": [tensor("model.layers.2.a", "U8", (300_000,))],
            "b.safetensors": [tensor("model.layers.2.b", "U8", (300_000,))],
        }
    )


GRAFTS = [
    {"shard": f"graft-{part}.safetensors", "from": "bf16", "tensors": [f"model.layers.2.{part}"]} for part in "ab"
]


def run(built: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "overlay", "publish", str(built), f"hf://{REPO}"]
    return subprocess.Popen(command, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("stage", ["/uploads/*", "/api/models/*/commit/main"], ids=["upload", "commit"])
def test_a_publish_that_is_killed_changes_nothing_and_goes_on(hub: LoopbackHub, tmp_path: Path, stage: str) -> None:
    seed(hub)
    hub.seed("org/donor", large_donor().files())
    built = build(tmp_path, grafts=GRAFTS)
    hub.seed(REPO, {"README.md": b"# Before\n"})
    before, reached, stuck = hub.head(REPO).id, set[str](), threading.Event()

    def stall(request: Request, answer: Answer) -> Response:
        if fnmatchcase(request.path, stage):
            reached.add(request.path)
            if len(reached) == (2 if stage == "/uploads/*" else 1):  # the second of two shards, or the commit
                stuck.set()
                time.sleep(5)
                return json_response({}, 500)
        return answer(request)

    with hub.failing(stall):
        process = run(built)
        while process.poll() is None and not (stuck.is_set() and hub.log.about(method="PUT", status=200)):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    assert stuck.is_set()
    assert before == hub.head(REPO).id
    sent = {record.path for record in hub.log.about(method="PUT", status=200)}
    hub.log.clear()
    published(publish(built))
    again = {record.path for record in hub.log.about(method="PUT")}
    assert set() == sent & again  # what arrived is not sent again
    assert 2 == len(sent | again)
    assert all(
        (built / f"graft-{part}.safetensors").read_bytes() == hub.read(REPO, f"graft-{part}.safetensors")
        for part in "ab"
    )


def test_a_publish_by_chunks_that_is_killed_changes_nothing_and_goes_on(xet_hub: LoopbackHub, tmp_path: Path) -> None:
    seed(xet_hub)
    built = build(tmp_path)
    xet_hub.seed(REPO, {"README.md": b"# Before\n"})
    before, stuck = xet_hub.head(REPO).id, threading.Event()

    def stall(request: Request, answer: Answer) -> Response:
        if request.path.endswith("/commit/main"):
            stuck.set()
            time.sleep(3)
            return json_response({}, 500)
        return answer(request)

    with xet_hub.failing(stall):
        process = run(built)
        while process.poll() is None and not stuck.is_set():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    assert (True, before) == (stuck.is_set(), xet_hub.head(REPO).id)
    published(publish(built))
    assert (built / SHARD).read_bytes() == xet_hub.read(REPO, SHARD)


def test_a_repository_that_moves_meanwhile_is_a_conflict(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    hub.seed(REPO, {"README.md": b"# Before\n"})

    def overtake(request: Request, answer: Answer) -> Response:
        if request.path.endswith("/commit/main"):
            hub.faults.clear()
            hub.seed(REPO, {"README.md": b"# Faster\n"})
        return answer(request)

    hub.faults.append(overtake)
    ended = publish(built)

    assert ended.refusal is not None
    assert (4, "run the command again") == (ended.code, ended.refusal.hint)
    assert {"README.md"} == set(hub.files(REPO))
    published(publish(built))
    assert "# Faster" in hub.read(REPO, "README.md").decode()


def refused(path: str, status: int, headers: dict[str, str] | None = None, document: object = None) -> object:
    def fault(request: Request, answer: Answer) -> Response:
        return json_response(document or {}, status, headers or {}) if path in request.path else answer(request)

    return fault


@pytest.mark.parametrize(
    ("path", "status", "headers", "code", "word"),
    [
        ("/repos/create", 403, {"X-Error-Message": "You don't have the rights"}, 5, "rights"),
        ("/preupload/", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, 5, "token"),
        ("/lfs/objects/batch", 403, {}, 5, "403"),
        ("/validate-yaml", 400, {}, 3, "README.md"),
        ("/commit/main", 500, {}, 5, "500"),
        (f"/api/models/{REPO}", 503, {}, 5, "503"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(
    hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    status: int,
    headers: dict[str, str],
    code: int,
    word: str,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    seed(hub)
    built = build(tmp_path)
    document = {"errors": [{"message": "bad"}], "warnings": []}
    hub.faults.append(refused(path, status, headers, document))  # type: ignore[arg-type]

    ended = publish(built)

    assert ended.refusal is not None
    assert (code, True) == (ended.code, word in ended.refusal.line)
    assert hub.token not in f"{ended.refusal.line}{ended.refusal.hint}"
    assert ("models", REPO) not in hub.state.repositories or {".gitattributes"} == set(hub.files(REPO))


def test_offline_nothing_is_asked(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(hub)
    built = build(tmp_path)
    hub.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    ended = publish(built)

    assert ended.refusal is not None
    assert (5, 0) == (ended.code, len(hub.log))


def test_without_a_token_nothing_is_changed(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed(hub)
    built = build(tmp_path)
    monkeypatch.delenv("HF_TOKEN")

    ended = publish(built)

    assert ended.refusal is not None
    assert (5, "hf auth login") == (ended.code, ended.refusal.hint[-13:])
    assert ("models", REPO) not in hub.state.repositories


def test_a_shard_that_changes_after_it_was_proved_is_not_committed(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)
    hub.seed(REPO, {"README.md": b"# Before\n"})
    before = hub.head(REPO).id

    def touch(request: Request, answer: Answer) -> Response:
        if request.path == f"/api/models/{REPO}":  # after it was hashed, and before it is sent
            data = (built / SHARD).read_bytes()
            (built / SHARD).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return answer(request)

    hub.faults.append(touch)
    ended = publish(built)
    hub.faults.clear()

    assert ended.refusal is not None
    assert (4, before) == (ended.code, hub.head(REPO).id)
    assert 1 == overlay("publish", built, f"hf://{REPO}").code  # it is not what the lock pins


def test_a_repository_that_somebody_made_meanwhile_is_not_written_to(hub: LoopbackHub, tmp_path: Path) -> None:
    seed(hub)
    built = build(tmp_path)

    def outrun(request: Request, answer: Answer) -> Response:
        if request.path == "/api/repos/create" and "README.md" not in theirs:
            theirs["README.md"] = b"# Theirs\n"
            hub.seed(REPO, theirs)
        return answer(request)

    theirs: dict[str, bytes] = {}
    with hub.failing(outrun):
        ended = publish(built)

    assert (4, "found one that was made since the plan" in str(ended.refusal)) == (ended.code, True)
    assert set(hub.files(REPO)) == {"README.md"}
