"""``make bench``: what the commands cost, as ratios against a peer or a limit measured in the same run.

Machines are noisy, so every round measures both sides one after the other, and the median of the ratios is what counts.
Peak memory is the kernel's figure for the child process.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import overlay
from overlay.formats.header_text import render_header
from overlay.formats.index import new_index

REPOSITORY = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "overlay"]
MANIFEST = REPOSITORY / "manifests" / "glm-5.2-nvfp4-mtp.yaml"
GRAFT = "model-00046-of-00046.safetensors"

PARSE_AND_DUMP = """
import orjson, os, sys
document = orjson.loads(open(sys.argv[1], "rb").read())
with open(sys.argv[2], "wb") as stream:
    stream.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    stream.flush()
    os.fsync(stream.fileno())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dense-gb", type=float, default=3.0, help="size of the dense checkpoint that is hashed")
    parser.add_argument("--work", type=Path, help="where to put the replicas; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        work = Path(folder)
        os.environ["OVERLAY_CACHE"] = str(work / "cache")
        bench_start(options.rounds)
        bench_full_size(work, options.rounds)
        bench_content(work, options.rounds, options.dense_gb)


def bench_start(rounds: int) -> None:
    """The command's start against its one dependency."""
    click = [sys.executable, "-c", "import click"]
    ratios = [seconds([*COMMAND, "--help"]) / seconds(click) for _ in range(max(rounds, 11))]
    say("overlay --help / python -c 'import click'", ratios, limit=2.5)


def bench_full_size(work: Path, rounds: int) -> None:
    """The founding case on sparse files: 46 shards, 233,087 tensors, 460 GB apparent."""
    subprocess.run([sys.executable, REPOSITORY / "benchmarks" / "full_size.py", work], check=True, stdout=sys.stderr)
    built = build_graft(work)
    index, copy = work / "base" / "model.safetensors.index.json", work / "index.out"
    reference = [sys.executable, "-c", PARSE_AND_DUMP, str(index), str(copy)]
    serve = work / "serve"
    apply = [*COMMAND, "apply", str(built), "--base", str(work / "base"), "-o", str(serve), "--link", "symlink"]
    verify = [*COMMAND, "verify", str(serve), "--level", "headers"]
    apply_ratios, verify_ratios, peaks = [], [], {"apply": 0, "verify": 0}
    for _ in range(rounds):
        shutil.rmtree(serve, ignore_errors=True)
        one = seconds(reference)
        taken, peak = measure(apply)
        apply_ratios.append(taken / one)
        peaks["apply"] = max(peaks["apply"], peak)
        taken, peak = measure(verify)
        verify_ratios.append(taken / one)
        peaks["verify"] = max(peaks["verify"], peak)
    say("full-size apply / orjson parse + dump of the index", apply_ratios, limit=5)
    say("full-size verify --level headers / the same", verify_ratios, limit=5)
    for name, peak in peaks.items():
        print(f"  peak memory of {name}: {peak / 1e6:.0f} MB (limit 250)")


def build_graft(work: Path) -> Path:
    """A diff-only repository as it would be published: manifest, lock and the graft's shard; says what that cost."""
    shutil.copy(MANIFEST, work / "founding.yaml")
    places = ["--base", str(work / "base"), "--donor", f"bf16={work / 'donor'}"]
    manifest, first = str(work / "founding.yaml"), work / "first"
    taken, peak = measure([*COMMAND, "lock", manifest, "--level", "headers", *places])
    print(f"  lock --level headers of base and donor: {taken:.2f} s, peak memory {peak / 1e6:.0f} MB (limit 250)")
    taken, peak = measure([*COMMAND, "apply", manifest, *places, "-o", str(first), "--link", "symlink"])
    print(f"  apply that builds the 19.9 GB graft, hashed: {taken:.2f} s, peak memory {peak / 1e6:.0f} MB (limit 250)")
    repository = work / "published"
    repository.mkdir()
    for name in ("founding.yaml", "founding.lock.json"):
        shutil.copy(work / name, repository / name)
    os.rename(first / GRAFT, repository / GRAFT)
    return repository / "founding.yaml"


def bench_content(work: Path, rounds: int, gigabytes: float) -> None:
    """Verification of content against the limit (sha256 on two threads) and against the Hub client's way of doing it."""
    dense = work / "dense"
    files = write_dense(dense, gigabytes)
    limit_ratios, peer_ratios = [], []
    for _ in range(rounds):
        limit = clock(lambda: hash_on_threads(files, 2))
        ours = clock(lambda: require(overlay.verify(str(dense), level="content", jobs=2).ok))
        peer = clock(lambda: hash_one_by_one(files))
        limit_ratios.append(limit / ours)
        peer_ratios.append(peer / ours)
    say("verify --level content, rate / 2-thread sha256", limit_ratios, floor=0.9)
    say("verify --level content, rate / the loop of hf cache verify", peer_ratios, floor=1.0)


def write_dense(folder: Path, gigabytes: float) -> list[Path]:
    """A dense checkpoint of four equal shards; returns them, read once so that they are cached."""
    folder.mkdir()
    block = os.urandom(1 << 20)
    blocks = int(gigabytes * 1e9 / 4 / len(block))
    weight_map, files = {}, []
    for number in range(1, 5):
        path = folder / f"model-{number:05d}-of-00004.safetensors"
        with path.open("wb") as stream:
            stream.write(render_header([(f"t{number}", "U8", (blocks * len(block),))]))
            for _ in range(blocks):
                stream.write(block)
        weight_map[f"t{number}"] = path.name
        files.append(path)
    total = 4 * blocks * len(block)
    (folder / "model.safetensors.index.json").write_bytes(new_index(weight_map, {"total_size": total}))
    hash_on_threads(files, 2)
    return files


def hash_on_threads(files: Sequence[Path], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hash_in_blocks, files))


def hash_in_blocks(path: Path) -> str:
    sha, buffer = hashlib.sha256(), bytearray(1 << 20)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            sha.update(memoryview(buffer)[:count])
    return sha.hexdigest()


def hash_one_by_one(files: Sequence[Path]) -> None:
    """What ``hf cache verify`` does: one file after the other, 1 MB a read, one thread."""
    for path in files:
        sha = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(1_000_000):
                sha.update(block)


def seconds(command: Sequence[str | Path]) -> float:
    return measure(command)[0]


def measure(command: Sequence[str | Path]) -> tuple[float, int]:
    """Wall seconds and peak memory in bytes of one process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    require(process.returncode == 0)
    return taken, usage.ru_maxrss * 1024


def clock(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def require(condition: bool) -> None:
    if not condition:
        raise SystemExit("a measured command failed")


def say(what: str, ratios: Sequence[float], *, limit: float | None = None, floor: float | None = None) -> None:
    middle = statistics.median(ratios)
    bound, met = (f"at most {limit}", middle <= limit) if limit is not None else (f"at least {floor}", middle >= floor)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"  {what}: {middle:.2f} ({spread}; {bound}: {'met' if met else 'NOT MET'})", flush=True)


if __name__ == "__main__":
    main()
