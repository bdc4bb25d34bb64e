"""Checksums for SGLang, and `--exec`: what is verified first, and who gets the signals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overlay import api
from overlay.storage import proofs
from tests.support import small
from tests.support.checkpoints import INDEX
from tests.support.commands import Ended, overlay


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A target of links that was never hashed; the working directory is beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(proofs, "_SETTLING_NS", 0)
    path = small.write(tmp_path, drop=[])
    api.apply(api.Request(sources=(str(path),)), "serve", link="symlink")
    return tmp_path / "serve"


def checksums(*arguments: str) -> Ended:
    return overlay("launch", "serve", "--engine", "sglang", "--checksum", "sums.json", *arguments)


# Checksums


def test_files_that_are_unproven_are_named_and_nothing_is_written(serve: Path) -> None:
    ended = checksums()

    assert 3 == ended.code
    assert ended.refusal is not None
    assert f"{small.FIRST}: expected a file whose bytes were hashed on this machine" in ended.refusal.line
    assert [small.SECOND, small.THIRD] == [other.partition(":")[0] for other in ended.refusal.others]
    assert f"overlay verify {serve} --level content" in ended.refusal.hint
    assert not Path("sums.json").exists()


def test_the_file_holds_what_sglang_reads(serve: Path) -> None:
    overlay("verify", "serve", "--level", "content")

    ended = checksums()

    written = json.loads(Path("sums.json").read_bytes())
    names = {INDEX, "config.json", small.FIRST, small.SECOND, small.THIRD, small.NEW}
    assert {"files"} == written.keys()
    assert names <= written["files"].keys()
    for name, said in written["files"].items():
        data = (serve / name).read_bytes()
        assert {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} == said
    assert f"--model-checksum {serve.parent}/sums.json\n" in ended.output
    assert f"wrote {serve.parent}/sums.json" in ended.output


def test_what_the_receipt_calls_proven_is_enough(serve: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    api.apply(api.Request(sources=("small.yaml",)), "serve", link="symlink", level="content")
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "another cache"))

    assert 0 == checksums().code


def test_a_file_that_changed_since_it_was_hashed_is_refused(serve: Path) -> None:
    overlay("verify", "serve", "--level", "content")
    with (serve.parent / "base" / small.SECOND).open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff")

    ended = checksums()

    assert 3 == ended.code
    assert ended.refusal is not None
    assert f"{small.SECOND}: expected a file that is as it was when it was hashed here" in ended.refusal.line


def test_a_checkpoint_without_a_receipt_is_proven_by_verify(serve: Path) -> None:
    before = overlay("launch", "base", "--engine", "sglang", "--checksum", "sums.json")
    overlay("verify", "base", "--level", "content")
    after = overlay("launch", "base", "--engine", "sglang", "--checksum", "sums.json")

    assert (3, 0) == (before.code, after.code)


def test_files_that_nobody_loads_are_left_out(serve: Path) -> None:
    overlay("verify", "base", "--level", "content")
    for name in ("README.md", ".gitattributes", "LICENSE"):
        (serve.parent / "base" / name).write_text("words\n")

    overlay("launch", "base", "--engine", "sglang", "--checksum", "sums.json")

    assert not {"README.md", ".gitattributes", "LICENSE"} & json.loads(Path("sums.json").read_bytes())["files"].keys()


@pytest.mark.parametrize("place", ["serve/sums.json", "serve/.overlay/sums.json", "serve", "gone/sums.json", "out"])
def test_the_file_is_put_beside_the_checkpoint(serve: Path, place: str) -> None:
    overlay("verify", "serve", "--level", "content")
    Path("out").mkdir()
    before = sorted(os.listdir(serve))

    ended = overlay("launch", "serve", "--engine", "sglang", "--checksum", place)

    assert 2 == ended.code
    assert before == sorted(os.listdir(serve))


def test_other_engines_read_no_such_file(serve: Path) -> None:
    assert 2 == overlay("launch", "serve", "--engine", "vllm", "--checksum", "sums.json").code


def test_the_container_sees_the_file(serve: Path) -> None:
    overlay("verify", "serve", "--level", "content")

    said = checksums("--docker", "img", "--json").document["words"]

    path = f"{serve.parent}/sums.json"
    assert f"{path}:{path}:ro" in said


def test_a_file_that_was_not_written_is_not_told_of(serve: Path) -> None:
    overlay("verify", "serve", "--level", "content")
    (serve / small.NEW).unlink()

    found = api.launch("serve", "sglang", checksum="sums.json", verify=True)

    assert (False, None) == (found.ok, found.checksum)
    assert not Path("sums.json").exists()


def test_nothing_is_written_for_a_container_that_there_cannot_be(serve: Path) -> None:
    overlay("verify", "serve", "--level", "content")

    assert 2 == checksums("--docker", "").code
    assert not Path("sums.json").exists()


# Running it

_SERVER = """#!/bin/sh
printf '%s\\n' "$0" "$@" > "$RECORD"
trap 'echo stopped >> "$RECORD"; exit 7' TERM
while :; do sleep 0.05; done
"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program ``vllm`` that writes its words down and waits for a signal; gives back where."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/vllm"
    program.write_text(_SERVER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    return tmp_path / "record"


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "overlay", "launch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_exec_verifies_prints_and_becomes_the_server(serve: Path, record: Path) -> None:
    process = start("serve", "--engine", "vllm", "--exec", "--", "--max-model-len", "1 2")
    try:
        while process.poll() is None and not record.exists():
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)  # to the process that we started: it is the server now
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()

    config = '{"method": "mtp", "num_speculative_tokens": 1}'
    assert 7 == process.returncode, err
    assert [str(serve), "--speculative-config", config, "--max-model-len", "1 2", "stopped"] == (
        record.read_text().splitlines()[2:]
    )
    assert out.startswith(f"vllm serve {serve} --speculative-config '{config}' --max-model-len '1 2'\n")


def test_exec_does_not_launch_what_has_errors(serve: Path, record: Path) -> None:
    with (serve.parent / "base" / small.SECOND).open("r+b") as stream:
        stream.write(b"\xff" * 8)

    ended = overlay("launch", "serve", "--engine", "vllm", "--exec")
    document = overlay("launch", "serve", "--engine", "vllm", "--exec", "--json").document
    quiet = overlay("launch", "serve", "--engine", "vllm", "--exec", "-q")

    assert 1 == ended.code
    assert ended.output.splitlines()[0].startswith("error: ")
    assert f"not ok at level headers: {serve} is not launched" == ended.output.splitlines()[-1]
    assert (False, True) == (document["verified"], bool(document["findings"]))
    assert "not ok\n" == quiet.output
    assert not record.exists()


def test_a_program_that_is_not_there(serve: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    ended = overlay("launch", "serve", "--engine", "vllm", "--exec")

    assert 5 == ended.code
    assert ended.refusal is not None
    assert "vllm: expected a program to run, the system says: No such file or directory" == ended.refusal.line


def test_without_exec_nothing_is_verified_and_it_says_so(serve: Path) -> None:
    assert overlay("launch", "serve", "--engine", "vllm", "--json").document["verified"] is None
