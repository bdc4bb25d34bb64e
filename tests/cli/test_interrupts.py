"""Ctrl-C, SIGTERM, a closed pipe and a full output: the command ends at once, in one line, and cleans up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bad_inputs.running import command, run_here
from tests.bad_inputs.world import MANIFEST, NEW, World, header_table, index_of, shard_bytes, snapshot, write_json

HUGE = 30 * 10**9
"""Bytes of a sparse shard: they take no space, and hashing them takes half a minute."""

LONG = 6 * 10**9
"""Bytes of a sparse shard that is grafted: built anew, so that the target's file system must have room for it."""

LOCK_FILE = ".serve.overlay.lock"
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupt_ends_the_hashing_of_a_large_file(number: signal.Signals, world: World) -> None:
    _sparse_checkpoint(world / "huge", HUGE)
    before = snapshot(world.root)
    process = _start(world, ["verify", "huge", "--level", "content"])
    _wait_until(lambda: _has_open(process.pid, "huge/model.safetensors"), process)

    ended = _interrupt(process, number)

    assert (130, "", "error: interrupted; nothing was left half-written\nhint: run the command again\n") == ended
    assert before == snapshot(world.root)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_interrupt_ends_the_building_of_a_graft_and_leaves_no_stage(number: signal.Signals, world: World) -> None:
    if shutil.disk_usage(world.root).free < 2 * LONG:
        pytest.skip(f"needs {2 * LONG} bytes of free space that it will not use")
    _sparse_checkpoint(world / "long", LONG)
    (world / "recipe/mtp.yaml").write_text(
        f"overlay: 1\nname: x\nbase: ../base\ndonors: {{d: ../long}}\n"
        f'grafts: [{{shard: {NEW}, from: d, tensors: ["long.**"]}}]\n'
    )
    _require_interruptible(number, world, ["apply", "recipe/mtp.yaml", "-o", "serve", "--json"])


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_interrupt_ends_the_copying_of_the_base_and_leaves_no_stage(number: signal.Signals, world: World) -> None:
    _scattered_shard(world / "base" / "model-00001-of-00002.safetensors")
    _require_interruptible(number, world, ["apply", "recipe/mtp.yaml", "-o", "serve", "--link", "copy", "--json"])


def _require_interruptible(number: signal.Signals, world: World, arguments: list[str]) -> None:
    before = snapshot(world.root, [LOCK_FILE])
    process = _start(world, arguments)
    _wait_until(lambda: any(_stages(world)), process)

    code, out, err = _interrupt(process, number)

    document = json.loads(out)
    assert (130, "interrupted") == (code, document["error"]["kind"])
    assert 2 == len(err.splitlines())
    assert before == snapshot(world.root, [LOCK_FILE])


def test_a_signal_that_the_parent_ignores_stays_ignored(world: World) -> None:
    _sparse_checkpoint(world / "huge", HUGE)
    nohup = [
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    process = _start(world, ["verify", "huge", "--level", "content"], before=nohup)
    _wait_until(lambda: _has_open(process.pid, "huge/model.safetensors"), process)

    process.send_signal(signal.SIGHUP)

    time.sleep(0.5)
    assert process.poll() is None
    assert 130 == _interrupt(process, signal.SIGINT)[0]


@pytest.mark.parametrize("line", ["inspect base --shards", "inspect base --json", "--help", "schema", "apply --help"])
def test_a_closed_pipe_ends_a_command_without_a_word(line: str, world: World) -> None:
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(command(line.split()), cwd=world.root, stdout=write, stderr=subprocess.PIPE, check=False)

    os.close(write)
    assert (141, b"") == (done.returncode, done.stderr)


def test_a_verdict_that_nobody_could_read_is_not_ok(world: World) -> None:
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(command(["verify", "base"]), cwd=world.root, stdout=write, stderr=write, check=False)

    os.close(write)
    assert 141 == done.returncode


@pytest.mark.parametrize(
    "arguments", [["inspect", "base"], ["inspect", "base", "--json"], ["verify", "gone", "--json"]]
)
def test_a_full_output_is_a_fault_of_the_machine(arguments: list[str], world: World) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(arguments), cwd=world.root, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert 5 == done.returncode
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_a_closed_output_is_no_reason_to_fail(world: World) -> None:
    line = " ".join(command(["inspect", "base"]))

    done = subprocess.run(f"{line} >&-", shell=True, cwd=world.root, stderr=subprocess.PIPE, check=False)

    assert (0, b"") == (done.returncode, done.stderr)


def test_an_interrupted_run_can_be_run_again(world: World) -> None:
    _scattered_shard(world / "base" / "model-00001-of-00002.safetensors")
    (world / "recipe/mtp.yaml").write_text(MANIFEST)
    process = _start(world, ["apply", "recipe/mtp.yaml", "-o", "serve", "--link", "copy"])
    _wait_until(lambda: any(_stages(world)), process)
    process.kill()
    process.communicate()

    said = run_here(["apply", "recipe/mtp.yaml", "-o", "serve"])

    assert 0 == said.code
    assert [] == _stages(world)


def _sparse_checkpoint(folder: Path, size: int) -> None:
    folder.mkdir()
    table = header_table({"long.weight": ("U8", [size])})
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(shard_bytes(table, b""))
        stream.truncate(stream.tell() + size)


def _scattered_shard(path: Path) -> None:
    """A shard of 30,000 islands of data: copying it takes long, and little space."""
    islands, step = 30_000, 8192
    tensors = {"scattered.weight": ("U8", [islands * step])}
    with path.open("wb") as stream:
        start = stream.write(shard_bytes(header_table({k: (d, list(s)) for k, (d, s) in tensors.items()}), b""))
        for island in range(islands):
            os.pwrite(stream.fileno(), b"x", 4096 + island * step)
        stream.truncate(start + islands * step)
    index = json.loads((path.parent / "model.safetensors.index.json").read_bytes())
    kept = {name: shard for name, shard in index["weight_map"].items() if shard != path.name}
    write_json(
        path.parent / "model.safetensors.index.json",
        {"metadata": index_of({})["metadata"], "weight_map": {**kept, "scattered.weight": path.name}},
    )


def _start(world: World, arguments: list[str], before: list[str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*(before or []), *command(arguments)],
        cwd=world.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _interrupt(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    started = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - started < 3
    return process.returncode, out, err


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(2000):
        if condition():
            return
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.005)
    pytest.fail("it never began")


def _has_open(pid: int, name: str) -> bool:
    """Whether the process reads the data of the file `name`: its header was read long before hashing begins."""
    try:
        threads = len(os.listdir(f"/proc/{pid}/task"))
        return threads > 1 and any(
            os.readlink(f"/proc/{pid}/fd/{number}").endswith(name) for number in os.listdir(f"/proc/{pid}/fd")
        )
    except FileNotFoundError:
        return False


def _stages(world: World) -> list[str]:
    return [name for name in os.listdir(world.root) if "overlay-stage" in name]
