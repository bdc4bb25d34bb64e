"""What lint costs on the founding case at full size, against what reading its headers costs: CPU seconds, best of several.

python benchmarks/linting.py [FOLDER]      # FOLDER is made where it is not there: 233,000 tensors in sparse files
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from overlay import api
from overlay.demo.layout import base_layout
from overlay.demo.replica import write_sparse
from overlay.running.locating import Places, open_checkpoint

ROUNDS = 5
LIMIT = 1.5
"""Reading the headers, and at most half of it again."""


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else f"{temporary}/base")
        if not folder.exists():
            write_sparse(base_layout(), folder)
        reading = _best(lambda: open_checkpoint("base", str(folder), Places()))
        print(f"reading headers and index: {reading:.3f} s")
        for engines in (["vllm"], ["vllm", "sglang", "transformers"], []):
            linting = _best(partial(api.lint, str(folder), engines))
            print(
                f"lint for {', '.join(engines) or 'all engines'}: {linting:.3f} s, {linting / reading:.2f} times that"
            )


def _best(act: Callable[[], object]) -> float:
    """CPU seconds of this process: other processes do not count."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        result = act()
        times.append(time.process_time() - begin)
        del result
    return min(times)


if __name__ == "__main__":
    main()
