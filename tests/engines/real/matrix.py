"""The matrix: each variant of each base, written, loaded by the real engines, and put into words.

    python -m tests.engines.real.matrix FOLDER [FAMILY...]

writes everything below FOLDER and prints what the engines did and what lint says, which is what the tests compare.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engines.real.bases import FAMILIES, Base, Family, make_base
from tests.engines.real.judging import judge_draft, judge_target
from tests.engines.real.trees import Tree
from tests.engines.real.variants import BY_BASE

ROOT = Path(__file__).parents[3]
VENV = ROOT / ".engines"
RUNNERS = Path(__file__).parent / "runners"
ENGINES = ("vllm", "sglang", "transformers")

REFERENCES = {
    "bf16": ("assembled", "draft in the keys of transformers"),
    "int4": ("draft in the base's scheme", "BF16, ignored as both name it", "BF16, ignored as vLLM names it"),
    "int4-experts": ("draft in the base's scheme", "BF16, ignored as both name it", "BF16, ignored as vLLM names it"),
    "nvfp4": ("NVFP4, head of the draft ignored", "BF16, ignored in both"),
}
"""The directories of each scheme whose parameters are right where the engine loads them."""


def why_not(venv: Path) -> str | None:
    """Why the engines are not installed in `venv`; None if they are."""
    if (venv / "installed").exists():
        return None
    reason = venv / "unavailable"
    said = reason.read_text().splitlines()[-1:] if reason.exists() else []
    return f"the engines are not installed: {said[0] if said else 'make engines does it'}"


@dataclass(frozen=True)
class Case:
    """A variant on disk."""

    family: str
    scheme: str
    variant: str
    tree: Tree
    folder: Path

    def __str__(self) -> str:
        return f"{self.family} {self.scheme}: {self.variant}"


@dataclass(frozen=True)
class Behaviour:
    """What an engine does with a directory, in the words of lint."""

    target: str
    draft: str
    errors: tuple[str, ...] = ()


def write_cases(family: Family, scheme: str, folder: Path, only: Collection[str] = ()) -> list[Case]:
    """Write all variants of one base below `folder`, or those that `only` names."""
    base: Base = make_base(family, scheme, folder / "bases" / family.name)
    cases = []
    for number, (name, variant) in enumerate(BY_BASE[family.name, scheme].items()):
        if only and name not in only:
            continue
        tree = variant(base)
        place = folder / family.name / scheme / f"{number:02d}"
        cases.append(Case(family.name, scheme, name, tree, tree.write(place)))
    return cases


def run_engine(engine: str, cases: list[Case], work: Path) -> dict[Path, Any]:
    """Load every case in one process of the engine; what happened, by folder.

    Raises:
        RuntimeError: the process itself died.
    """
    python = sys.executable if engine == "transformers" else str(VENV / "bin/python")
    out = work / f"{engine}-{cases[0].family}-{cases[0].scheme}.json"
    own = work / "home"
    own.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "HOME": str(own),
        "HF_HOME": str(own / "hf"),
        "TMPDIR": str(own),
        "VLLM_CACHE_ROOT": str(VENV / "cache"),
        "PYTHONPATH": "",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [python, RUNNERS / f"load_{engine}.py", out, *(case.folder for case in cases)]
    log = out.with_suffix(".log")
    with log.open("wb") as stream:
        done = subprocess.run(command, env=environment, stdout=stream, stderr=stream, check=False, timeout=3600)
    if done.returncode:
        said = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{engine} ended with {done.returncode}: {said}")
    return {Path(folder): happened for folder, happened in json.loads(out.read_bytes()).items()}


def behaviours(cases: list[Case], happened: Mapping[Path, Any]) -> dict[str, Behaviour]:
    """What an engine did with the cases of one base, by variant."""
    by_name = {case.variant: happened[case.folder] for case in cases}
    references = [by_name[name] for name in REFERENCES[cases[0].scheme] if name in by_name]
    targets, drafts = ([reference[part] for reference in references] for part in ("target", "draft"))
    return {
        case.variant: Behaviour(
            judge_target(by_name[case.variant]["target"], targets),
            judge_draft(by_name[case.variant]["draft"], drafts, case.tree),
            tuple(
                f"{part}: {outcome['error'].splitlines()[0][:300]} ({outcome['at']})"
                for part, outcome in by_name[case.variant].items()
                if "error" in outcome
            ),
        )
        for case in cases
    }


def predictions(case: Case, engines: Iterable[str] = ENGINES) -> dict[str, Behaviour]:
    """What lint says, by engine."""
    from tests.support.commands import overlay

    words = (word for engine in engines for word in ("--engine", engine))
    document = overlay("lint", case.folder, "--json", *words).document
    return {
        engine: Behaviour(
            said["target"],
            said["draft"],
            tuple(f"{finding['code']}: {finding['message']}" for finding in said["findings"]),
        )
        for engine, said in document["engines"].items()
    }


def main(folder: str, *families: str) -> None:
    """Write, load, compare, and print a line for each case and engine."""
    work = Path(folder)
    for family, scheme in BY_BASE:
        if family in (families or FAMILIES):
            shutil.rmtree(work / family / scheme, ignore_errors=True)
            for line in _compare(FAMILIES[family], scheme, work):
                print(line, flush=True)


def _compare(family: Family, scheme: str, work: Path) -> Iterator[str]:
    cases = write_cases(family, scheme, work)
    real = {engine: behaviours(cases, run_engine(engine, cases, work)) for engine in ENGINES}
    for case in cases:
        said = predictions(case)
        for engine in ENGINES:
            did, expected = real[engine][case.variant], said[engine]
            agree = (did.target, did.draft) == (expected.target, expected.draft)
            yield f"{'same' if agree else 'DIFF'}\t{case}\t{engine}\t{did}\t{expected}"


if __name__ == "__main__":
    main(*sys.argv[1:])
