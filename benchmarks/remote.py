"""What a Hub on this machine costs: headers of 282 shards against the client's own way, and a graft against a plain loop.

    python benchmarks/remote.py

Client and server share the processors, so that only ratios of one round mean anything; the median of the rounds counts.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from overlay.demo.layout import donor_layout  # noqa: E402
from overlay.demo.replica import write_sparse  # noqa: E402
from tests.loopback_hub.fixtures import environment  # noqa: E402
from tests.loopback_hub.hub import LoopbackHub  # noqa: E402
from tests.loopback_hub.repositories import Seed  # noqa: E402
from tests.support.checkpoints import Checkpoint, Tensor, manifest_text, sharded  # noqa: E402

ROUNDS = 3
BIG = 16 << 20
"""Bytes of a tensor of the graft."""
COUNT = 16

OURS = "from overlay.cli.main import main; main()"
CLIENTS = """
import sys
from huggingface_hub import HfApi
api = HfApi()
found = api.get_safetensors_metadata(sys.argv[1])
assert len(found.files_metadata) == 282
"""
PLAIN = """
import hashlib, sys
from huggingface_hub import hf_hub_url
from huggingface_hub.utils import get_session
repo, name, begin, end, path = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
digest = hashlib.sha256()
headers = {"Range": f"bytes={begin}-{end - 1}"}
answers = get_session().stream("GET", hf_hub_url(repo, name), headers=headers, follow_redirects=True)
with open(path, "wb") as out, answers as answer:
    assert answer.status_code == 206
    for block in answer.iter_bytes(1 << 20):
        out.write(block)
        digest.update(block)
"""


def main() -> None:
    """Seed the Hub, run every round, and print the ratios."""
    with tempfile.TemporaryDirectory() as name, LoopbackHub(Path(name) / "hub") as hub:
        work = Path(name)
        os.environ.pop("HF_HUB_OFFLINE", None)  # the tests' fixtures set it
        os.environ.update(environment(hub, work))
        headers = _headers(hub, work)
        graft = _graft(hub, work)
    print(f"headers of 282 shards, overlay inspect against get_safetensors_metadata: {headers:.2f} times the time")
    print(
        f"graft of {BIG * COUNT >> 20} MiB, overlay build against a plain ranged GET with sha256: {graft:.2f} times the time"
    )


def _headers(hub: LoopbackHub, work: Path) -> float:
    write_sparse(donor_layout(), work / "donor")
    files = {path.name: path for path in sorted((work / "donor").iterdir())}
    seeds = {
        n: Seed(data=p, sha256=sha256(n.encode()).hexdigest()) for n, p in files.items() if n.endswith(".safetensors")
    }
    hub.seed("org/donor", {**files, **seeds})
    ratios = []
    for _ in range(ROUNDS):
        ours = _timed(work, OURS, "inspect", "hf://org/donor", "-q")
        ratios.append(ours / _timed(work, CLIENTS, "org/donor"))
    return statistics.median(ratios)


def _graft(hub: LoopbackHub, work: Path) -> float:
    block = os.urandom(BIG)
    wanted = [Tensor(f"model.layers.2.t{n:02d}.weight", "U8", (BIG,), block) for n in range(COUNT)]
    donor = Checkpoint(
        shards={"model-00001-of-00002.safetensors": wanted, "model-00002-of-00002.safetensors": sharded().tensors}
    )
    hub.seed("org/grafts", donor.files())
    sharded().write(work / "base")
    (work / "m.yaml").write_text(manifest_text(base="base", donors={"bf16": "hf://org/grafts"}))
    size = len(donor.files()["model-00001-of-00002.safetensors"])
    ratios = []
    for _ in range(ROUNDS):
        shutil.rmtree(work / "built", ignore_errors=True)
        ours = _timed(work, OURS, "build", str(work / "m.yaml"), "-o", str(work / "built"), "-q")
        peer = (
            "org/grafts",
            "model-00001-of-00002.safetensors",
            str(size - BIG * COUNT),
            str(size),
            str(work / "plain"),
        )
        ratios.append(ours / _timed(work, PLAIN, *peer))
    return statistics.median(ratios)


def _timed(work: Path, program: str, *arguments: str) -> float:
    """Seconds of a process of its own, whose caches are empty."""
    for cache in ("overlay-cache", "huggingface"):
        shutil.rmtree(work / cache, ignore_errors=True)
    variables = {**os.environ, "OVERLAY_CACHE": str(work / "overlay-cache"), "PYTHONPATH": str(REPOSITORY)}
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", program, *arguments], env=variables, check=True, cwd=work, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
