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
MAX_PEAK_MB = 250
MAX_DIFF_PEAK_MB = 350
TENSORS = 8
"""Tensors of a dense shard."""

PARSE_AND_DUMP = """
import orjson, os, sys
document = orjson.loads(open(sys.argv[1], "rb").read())
with open(sys.argv[2], "wb") as stream:
    stream.write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    stream.flush()
    os.fsync(stream.fileno())
"""


PARSE_HEADERS = """
import glob, orjson, sys
for folder in sys.argv[1:]:
    for path in sorted(glob.glob(folder + "/*.safetensors")):
        with open(path, "rb") as stream:
            orjson.loads(stream.read(int.from_bytes(stream.read(8), "little")))
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
        built = bench_full_size(work, options.rounds)
        bench_replacing(work, built, options.rounds)
        bench_diff(work, options.rounds)
        dense = work / "dense"
        files = write_dense(dense, options.dense_gb)
        bench_trimming(dense, files, options.rounds)
        bench_content(dense, files, options.rounds)
        shutil.rmtree(dense)
        converting = [sys.executable, REPOSITORY / "benchmarks" / "converting.py", "--rounds", str(options.rounds)]
        subprocess.run([*converting, "--work", work], check=True)  # a process of its own, since it imports torch


def bench_start(rounds: int) -> None:
    """The command's start against its one dependency."""
    click = [sys.executable, "-c", "import click"]
    ratios = [seconds([*COMMAND, "--help"]) / seconds(click) for _ in range(max(rounds, 11))]
    say("overlay --help / python -c 'import click'", ratios, limit=2.5)


def bench_full_size(work: Path, rounds: int) -> Path:
    """The founding case on sparse files: 46 shards, 233,087 tensors, 460 GB apparent; gives back its manifest."""
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
        say_peak(name, peak)
    return built


def build_graft(work: Path) -> Path:
    """A diff-only repository as it would be published: manifest, lock and the graft's shard; says what that cost."""
    shutil.copy(MANIFEST, work / "founding.yaml")
    places = ["--base", str(work / "base"), "--donor", f"bf16={work / 'donor'}"]
    manifest, first = str(work / "founding.yaml"), work / "first"
    taken, peak = measure([*COMMAND, "lock", manifest, "--level", "headers", *places])
    print(f"  lock --level headers of base and donor: {taken:.2f} s")
    say_peak("lock", peak)
    taken, peak = measure([*COMMAND, "apply", manifest, *places, "-o", str(first), "--link", "symlink"])
    print(f"  apply that builds the 19.9 GB graft, hashed: {taken:.2f} s")
    say_peak("it", peak)
    repository = work / "published"
    repository.mkdir()
    for name in ("founding.yaml", "founding.lock.json"):
        shutil.copy(work / name, repository / name)
    os.rename(first / GRAFT, repository / GRAFT)
    return repository / "founding.yaml"


def bench_replacing(work: Path, built: Path, rounds: int) -> None:
    """Replacing 372 tensors over 62 of 83 sparse shards, against a plain graft on the same base, and against cp.

    Of sparse shards no byte is copied, so that cp has nothing to do but to make 62 files; `bench_trimming` compares bytes.
    """
    folder = work / "replacing"
    subprocess.run([sys.executable, REPOSITORY / "benchmarks" / "replacing.py", folder], check=True, stdout=sys.stderr)
    plain, serve, copies = folder / "plain", folder / "serve", folder / "copies"
    unpinned = folder / "published"  # without the lock, which pins another base
    unpinned.mkdir()
    shutil.copy(built, unpinned / built.name)
    os.link(built.with_name(GRAFT), unpinned / GRAFT)
    grafting = [*COMMAND, "apply", str(unpinned / built.name), "--base", str(folder / "base83"), "--link", "symlink"]
    manifest = str(folder / "replacing.yaml")
    plan_ratios, apply_ratios, peaks = [], [], {"plan": 0, "apply": 0}
    seconds_taken: dict[str, list[float]] = {"graft": [], "plan": [], "apply": [], "cp": []}
    for _ in range(rounds):
        for place in (plain, serve, copies):
            shutil.rmtree(place, ignore_errors=True)
        one = seconds([*grafting, "-o", str(plain)])
        planned, peak = measure([*COMMAND, "plan", manifest, "-o", str(serve), "--link", "symlink"])
        peaks["plan"] = max(peaks["plan"], peak)
        applied, peak = measure([*COMMAND, "apply", manifest, "-o", str(serve), "--link", "symlink"])
        peaks["apply"] = max(peaks["apply"], peak)
        trimmed = [path for path in serve.glob("*.safetensors") if not path.is_symlink()]
        sources = [folder / "base83" / path.name for path in trimmed if (folder / "base83" / path.name).exists()]
        require(len(sources) == 62)
        copied = seconds(copying(sources, copies))
        plan_ratios.append(planned / one)
        apply_ratios.append(applied / copied)
        for name, taken in zip(seconds_taken, (one, planned, applied, copied), strict=True):
            seconds_taken[name].append(taken)
    say("plan that replaces 372 tensors in 62 of 83 shards / plain apply of a graft on that base", plan_ratios, limit=2)
    say("apply of it / cp --sparse=auto and fsync of the 62 shards, all holes", apply_ratios)
    middles = {name: f"{statistics.median(taken):.2f} s" for name, taken in seconds_taken.items()}
    print(f"  of these, in seconds: {', '.join(f'{name} {middle}' for name, middle in middles.items())}")
    for name, peak in peaks.items():
        say_peak(f"the replacing {name}", peak)


def bench_diff(work: Path, rounds: int) -> None:
    """Two checkpoints of 233,000 tensors: a base and what was made of it, and two cuts into shards of the same tensors."""
    base, serve, recut = (str(work / name) for name in ("base", "serve", "replacing/base83"))
    for what, one, other in (("base and target", base, serve), ("one base, cut into 45 and 83 shards", base, recut)):
        ratios, peaks = [], []
        for _ in range(rounds):
            parsed = seconds([sys.executable, "-c", PARSE_HEADERS, one, other])
            taken, peak = measure([*COMMAND, "diff", one, other], codes=(1,))
            ratios.append(taken / parsed)
            peaks.append(peak)
        say(f"diff of {what} / orjson parse of the same headers", ratios, limit=3)
        say_peak("it", max(peaks), MAX_DIFF_PEAK_MB)


def bench_trimming(dense: Path, files: Sequence[Path], rounds: int) -> None:
    """Taking a tensor out of each dense shard, against cp of the same shards; both end on the disk."""
    manifest, serve, copies = dense.parent / "trim.yaml", dense.parent / "trimmed", dense.parent / "copies"
    manifest.write_text(f'overlay: 1\nname: trim\nbase: {dense}\ndrop: ["t*.{TENSORS // 2}"]\n')
    ratios = []
    for _ in range(rounds):
        for place in (serve, copies):
            shutil.rmtree(place, ignore_errors=True)
        os.sync()
        copied = seconds(copying(files, copies))
        os.sync()
        ratios.append(seconds([*COMMAND, "apply", str(manifest), "-o", str(serve)]) / copied)
    for place in (serve, copies):
        shutil.rmtree(place)
    say("apply that trims dense shards / cp and fsync of the same shards", ratios, limit=1.5)


def copying(files: Sequence[Path], folder: Path) -> list[str | Path]:
    """The command that copies `files` to the new folder `folder` and waits until they are on the disk."""
    script = 'mkdir "$0" && cp --sparse=auto "$@" "$0" && sync "$0"/*'
    return ["sh", "-c", script, folder, *files]


def bench_content(dense: Path, files: Sequence[Path], rounds: int) -> None:
    """Verification of content against the limit (sha256 on two threads) and against the Hub client's way of doing it."""
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
    blocks = int(gigabytes * 1e9 / 4 / TENSORS / len(block))
    weight_map: dict[str, str] = {}
    files = []
    for number in range(1, 5):
        path = folder / f"model-{number:05d}-of-00004.safetensors"
        names = [f"t{number}.{place}" for place in range(TENSORS)]
        with path.open("wb") as stream:
            stream.write(render_header([(name, "U8", (blocks * len(block),)) for name in names]))
            for _ in range(TENSORS * blocks):
                stream.write(block)
        weight_map |= dict.fromkeys(names, path.name)
        files.append(path)
    total = 4 * TENSORS * blocks * len(block)
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


def measure(command: Sequence[str | Path], codes: Sequence[int] = (0,)) -> tuple[float, int]:
    """Wall seconds and peak memory in bytes of one process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    require(process.returncode in codes)
    return taken, usage.ru_maxrss * 1024


def clock(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def require(condition: bool) -> None:
    if not condition:
        raise SystemExit("a measured command failed")


def say(what: str, ratios: Sequence[float], *, limit: float | None = None, floor: float | None = None) -> None:
    """Print the median of `ratios` with their spread, and whether it keeps the `limit` or the `floor`, if there is one."""
    middle, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
    verdict = "no limit"
    if limit is not None:
        verdict = f"at most {limit}: {'met' if middle <= limit else 'NOT MET'}"
    elif floor is not None:
        verdict = f"at least {floor}: {'met' if middle >= floor else 'NOT MET'}"
    print(f"  {what}: {middle:.2f} ({spread}; {verdict})", flush=True)


def say_peak(what: str, peak: int, limit: int = MAX_PEAK_MB) -> None:
    met = "met" if peak <= limit * 1e6 else "NOT MET"
    print(f"  peak memory of {what}: {peak / 1e6:.0f} MB (at most {limit}: {met})", flush=True)


if __name__ == "__main__":
    main()
