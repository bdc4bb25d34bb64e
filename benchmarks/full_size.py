"""Write the published pair at full size as sparse files: 1.9 TB that take some MB of disk.

    python benchmarks/full_size.py OUT

makes OUT/base, the 45 shards of Mapika/GLM-5.2-NVFP4, and OUT/donor, the 282 shards of zai-org/GLM-5.2.  Headers,
indexes and sizes are those of the real repositories; the data are holes.  Only layer 78 of the donor is stamped, so
that what extracts it has something to copy and to compare.
"""

from __future__ import annotations

import argparse
import time
from hashlib import sha256
from pathlib import Path

from overlay.demo.layout import FULL_SIZE, base_layout, donor_layout
from overlay.demo.replica import write_sparse
from overlay.formats.index import parse_index
from overlay.formats.names import INDEX_NAME


def write_full_size(out: Path) -> None:
    """Write OUT/base and OUT/donor.

    Raises:
        FileExistsError: a file is in the way.
    """
    write_sparse(base_layout(), out / "base")
    write_sparse(donor_layout(), out / "donor", stamp=True, stamp_prefix=FULL_SIZE.mtp_prefix)


def describe(folder: Path) -> str:
    """The figures of the checkpoint in `folder`, as they are on the disk, in one line."""
    raw = (folder / INDEX_NAME).read_bytes()
    index = parse_index(raw)
    stats = [path.stat() for path in folder.iterdir()]
    return (
        f"{folder.name}: {len(index.shards())} shards, {len(index.weight_map):,} tensors, "
        f"total_size {index.total_size}, index {len(raw):,} bytes sha256 {sha256(raw).hexdigest()}, "
        f"{sum(stat.st_size for stat in stats):,} bytes in files, "
        f"{sum(stat.st_blocks for stat in stats) * 512:,} on disk"
    )


def main() -> None:
    """Parse the command line, write, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder without base/ and donor/")
    out: Path = parser.parse_args().out
    started = time.perf_counter()
    try:
        write_full_size(out)
    except FileExistsError as error:
        parser.error(f"expected a new folder, found {error.filename}")
    print(f"written in {time.perf_counter() - started:.1f} s")
    for name in ("base", "donor"):
        print(describe(out / name))


if __name__ == "__main__":
    main()
