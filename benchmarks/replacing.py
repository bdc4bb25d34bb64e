"""Write a replacing overlay at full size as sparse files: 124 linears, 372 tensors, spread over 62 of 83 shards.

    python benchmarks/replacing.py OUT

makes OUT/base83, the tensors of Mapika/GLM-5.2-NVFP4 cut into 83 shards, OUT/requantised, a donor of the replacements,
and OUT/replacing.yaml.  The shape is that of 0xTank/SuperGLM-5.2-v2-W4W8-Overlay, whose 372 entries lie over 62 shards.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from overlay.demo.layout import FULL_SIZE, Layout, TensorSpec, base_layout
from overlay.demo.replica import write_sparse
from overlay.formats.header_text import layout_order
from overlay.formats.index import new_index

SHARDS = 83
TOUCHED = 62
LINEARS = 124
GRAFT = "model-00084-of-00084.safetensors"
SUFFIXES = (".weight", ".weight_scale", ".weight_scale_2")

MANIFEST = """\
overlay: 1
name: requantised
summary: Replaces 372 tensors that lie over 62 of 83 shards.
base: base83
donors:
  new: requantised
grafts:
  - shard: {graft}
    from: new
    tensors: ["**"]
    mode: replace
    expect: {{tensors: {count}}}
"""


def write_replacing(out: Path) -> list[str]:
    """Write the pair and its manifest; gives back the names of the shards that hold something to replace.

    Raises:
        FileExistsError: a file is in the way.
    """
    base = base_layout(dataclasses.replace(FULL_SIZE, base_shard_limit=5_350_000_000))
    assert len(base.files) == SHARDS
    touched = _with_linears(base)
    replacements = [spec for specs in touched.values() for spec in specs]
    donor = sorted(replacements, key=lambda spec: layout_order(spec.name, spec.dtype))
    name = "model-00001-of-00001.safetensors"
    index = new_index({spec.name: name for spec in donor}, {"total_size": sum(spec.nbytes for spec in donor)})
    write_sparse(base, out / "base83", stamp=True, stamp_prefix="model.layers.3.")
    requantised = Layout(files={name: donor}, index=index, sidecars={}, metadata={"format": "pt"})
    write_sparse(requantised, out / "requantised", stamp=True)
    (out / "replacing.yaml").write_text(MANIFEST.format(graft=GRAFT, count=len(donor)))
    return sorted(touched)


def _with_linears(base: Layout) -> dict[str, list[TensorSpec]]:
    """Two whole linears of each of the first 62 shards that hold two."""
    touched: dict[str, list[TensorSpec]] = {}
    for shard, specs in base.files.items():
        known = {spec.name: spec for spec in specs}
        stems = [name.removesuffix(".weight_scale") for name in known if name.endswith(".weight_scale")]
        whole = [stem for stem in stems if all(stem + suffix in known for suffix in SUFFIXES)]
        if len(whole) >= LINEARS // TOUCHED and len(touched) < TOUCHED:
            chosen = whole[: LINEARS // TOUCHED]
            touched[shard] = [known[stem + suffix] for stem in chosen for suffix in SUFFIXES]
    assert len(touched) == TOUCHED
    return touched


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder without base83/ and requantised/")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    print(f"{len(write_replacing(out))} of {SHARDS} shards hold something to replace")


if __name__ == "__main__":
    main()
