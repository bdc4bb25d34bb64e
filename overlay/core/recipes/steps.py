"""The steps that move or cast tensors: `rename`, `cast`, `fuse` and `split`.

Each takes the tensors before it to those after it, or raises `StepProblems` with everything that it forbids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from overlay.core.recipes.layouts import ACTIVATION_PARTS
from overlay.core.recipes.state import (
    Problem,
    StepProblems,
    Tensors,
    about,
    choose_modules,
    choose_tensors,
    idle_patterns,
    is_quantised,
    join,
    modules_of,
    ordered,
    require,
)
from overlay.core.recipes.values import Argument, Spec, Value, make_call, renamed
from overlay.formats.patterns import Pattern
from overlay.formats.renaming import Renaming
from overlay.formats.steps import Cast, Fuse, Split
from overlay.formats.weight_schemes import FLOATS

_KEPT_WIDE: Final = "e_score_correction_bias"
"""A router's bias, which engines keep in F32 whatever the weights are."""


def rename(tensors: Tensors, renames: dict[str, str]) -> dict[str, Value]:
    """New names for the tensors that patterns describe; an entry that is a whole name goes before any pattern.

    Raises:
        StepProblems: a pattern describes nothing, two of them describe one tensor, or two tensors get one name.
    """
    exact = {name: new for name, new in renames.items() if "*" not in name}
    patterns = {text: Renaming(text, new) for text, new in renames.items() if "*" in text}
    idle = set(renames)
    problems: list[Problem] = []
    names: dict[str, str] = {}
    for name, value in tensors.items():
        found = {text: new for text, entry in patterns.items() if (new := entry.apply(name)) is not None}
        idle -= found.keys() | {name}
        if name not in exact and len(set(found.values())) > 1:
            several = " and ".join(map(repr, sorted(found)))
            problems.append(about(value, f"expected one pattern for it, found {several}", "one-name"))
        names[name] = exact.get(name) or min(found.values(), default=name)
    missing = [f"rename: expected {text!r} to describe a tensor, found none (rule idle-step)" for text in sorted(idle)]
    require([*(Problem("", "", message) for message in missing), *problems, *_collisions(tensors, names)])
    return ordered(renamed(value, names[name]) for name, value in tensors.items())


def _collisions(tensors: Tensors, names: dict[str, str]) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name, new in names.items():
        other = taken.setdefault(new, name)
        if other != name:
            yield about(tensors[name], f"expected a name of its own, found {new}, which {other} has too", "one-name")


def cast(tensors: Tensors, step: Cast) -> dict[str, Value]:
    """Unquantised tensors in another dtype.

    Raises:
        StepProblems: a pattern describes nothing, or something that is quantised or no float; or nothing is changed.
    """
    quantised = {
        value.name for module in modules_of(tensors).values() if is_quantised(module) for value in module.values()
    }
    chosen = choose_tensors(step.tensors, tensors)
    problems = idle_patterns("tensors", chosen)
    result = dict(tensors)
    touched = 0
    for name, value in tensors.items():
        castable = value.dtype in FLOATS and name not in quantised and name.rpartition(".")[2] not in ACTIVATION_PARTS
        if name in chosen.names and not castable:
            found = "a part of a quantised weight" if name in quantised else value.dtype
            problems.append(about(value, f"expected {', '.join(FLOATS)}, found {found}", "dtype"))
        wanted = name in chosen.names if step.tensors else castable and not name.endswith(_KEPT_WIDE)
        if wanted and castable and value.dtype != step.to:
            touched += 1
            result[name] = cast_value(value, step.to)
    if not touched and not problems:
        problems.append(Problem("", "", f"expected a tensor to cast to {step.to}, found none (rule idle-step)"))
    require(problems)
    return result


def cast_value(value: Value, dtype: str) -> Value:
    """`value` as `dtype`."""
    output = Spec("tensor", dtype, value.shape)
    _, (result,) = make_call("cast", [Argument("tensor", value)], [output], to=dtype)
    return renamed(result, value.name)


def fuse(tensors: Tensors, step: Fuse) -> dict[str, Value]:
    """Several weights to one: neighbours whose rows follow one another, or the experts of a layer.

    Raises:
        StepProblems: nothing to fuse, a part or an expert is missing, or parts that differ or are quantised.
    """
    modules = modules_of(tensors)
    if step.experts is None:
        groups = _neighbours(modules, step.parts)
        problems = [] if groups else [_nothing(step.parts)]
        fusing = {join(parent, step.into): [[join(parent, part) for part in step.parts]] for parent in groups}
    else:
        stacks, problems = _stacks(modules, step.experts, step.parts)
        fusing = {
            join(stack, step.into): [[join(stack, str(expert), part) for part in step.parts] for expert in experts]
            for stack, experts in stacks.items()
        }
    gone = {
        value.name
        for rows in fusing.values()
        for row in rows
        for path in row
        for value in modules.get(path, {}).values()
    }
    result = {name: value for name, value in tensors.items() if name not in gone}
    for path, rows in fusing.items():
        try:
            for value in _fused(path, rows, modules, step):
                if value.name in result:
                    problems.append(about(result[value.name], "expected a name that is free, found this", "one-name"))
                result[value.name] = value
        except StepProblems as error:
            problems += error.problems
    require(problems)
    return ordered(result.values())


def _neighbours(modules: dict[str, dict[str, Value]], parts: Sequence[str]) -> list[str]:
    """Modules that hold at least one of `parts`, numbered experts included."""
    parents = {path.rpartition(".")[0] for path in modules if path.rpartition(".")[2] in parts}
    return sorted(parents)


def _stacks(
    modules: dict[str, dict[str, Value]], pattern: str, parts: Sequence[str]
) -> tuple[dict[str, list[int]], list[Problem]]:
    """Modules of numbered experts that hold some of `parts`, and the experts' numbers, which are 0 to n-1."""
    numbers: dict[str, set[int]] = {}
    for path in modules:
        expert_path, _, part = path.rpartition(".")
        stack, _, number = expert_path.rpartition(".")
        if part in parts and number.isascii() and number.isdigit() and len(number) < 8:
            numbers.setdefault(stack, set()).add(int(number))
    chosen = choose_modules([pattern], numbers)
    problems = idle_patterns("experts", chosen)
    for stack in sorted(chosen.names):
        missing = sorted(set(range(max(numbers[stack]) + 1)) - numbers[stack])
        if missing:
            found = (
                f"expected experts 0 to {max(numbers[stack])}, found none with number {missing[0]} (rule same-parts)"
            )
            problems.append(Problem(stack, "", found))
    return {stack: sorted(numbers[stack]) for stack in sorted(chosen.names)}, problems


def _nothing(parts: Sequence[str]) -> Problem:
    return Problem("", "", f"expected a module with {', '.join(parts)}, found none (rule idle-step)")


def _fused(path: str, rows: list[list[str]], modules: dict[str, dict[str, Value]], step: Fuse) -> Iterator[Value]:
    """The tensors of a fused module: weight, and bias where the parts have one."""
    members = [[modules.get(part, {}) for part in row] for row in rows]
    problems = []
    for row, found in zip(rows, members, strict=True):
        for part, module in zip(row, found, strict=True):
            if "weight" not in module:
                home = next((m["weight"].home for m in found if "weight" in m), "")
                problems.append(Problem(f"{part}.weight", home, "expected this part, found none (rule same-parts)"))
            elif is_quantised(module):
                problems.append(about(module["weight"], "expected it unquantised, found it quantised", "same-parts"))
    require(problems)
    for suffix in sorted({s for row in members for module in row for s in module} - ACTIVATION_PARTS):
        values = [[module.get(suffix) for module in row] for row in members]
        flat = [value for row in values for value in row]
        alike = {(v.dtype, v.shape) if v else None for v in flat}
        known = next(value for value in flat if value)
        if None in alike or len(alike) > 1:
            several = ", ".join(sorted({f"{v.dtype} {list(v.shape)}" if v else "none" for v in flat}))
            raise StepProblems([about(known, f"expected parts of one dtype and shape, found {several}", "same-parts")])
        yield _fuse_values(path, suffix, [[v for v in row if v] for row in values], step)


def _fuse_values(path: str, suffix: str, values: list[list[Value]], step: Fuse) -> Value:
    """Rows of each expert first, then the experts; stacked weights are named after the module itself."""
    fused = [_fuse_rows(row, suffix, interleave=step.interleave) for row in values]
    if step.experts is None:
        return renamed(fused[0], f"{path}.{suffix}")
    output = Spec(suffix, fused[0].dtype, (len(fused), *fused[0].shape))
    _, (stacked,) = make_call("fuse-experts", [Argument("part", value) for value in fused], [output])
    return renamed(stacked, path if suffix == "weight" else f"{path}_{suffix}")


def _fuse_rows(parts: list[Value], suffix: str, *, interleave: bool) -> Value:
    if len(parts) == 1:
        return parts[0]
    _require_rows(parts[0], 1)
    shape = (len(parts) * parts[0].shape[0], *parts[0].shape[1:])
    inputs = [Argument("part", part) for part in parts]
    _, (fused,) = make_call("fuse-rows", inputs, [Spec(suffix, parts[0].dtype, shape)], interleave=interleave)
    return fused


def split(tensors: Tensors, step: Split) -> dict[str, Value]:
    """One weight to several: rows to neighbours, or stacked experts to numbered ones.

    Raises:
        StepProblems: nothing to split, rows that do not divide evenly, or a weight that is quantised.
    """
    sources = dict(_split_sources(tensors, step))
    if not sources:
        raise StepProblems([Problem("", "", f"expected a module {step.from_}, found none (rule idle-step)")])
    problems = []
    result = {name: value for name, value in tensors.items() if name not in sources}
    for name, (parent, suffix) in sources.items():
        try:
            for value in _split_value(tensors[name], parent, suffix, step):
                if value.name in result:
                    problems.append(about(result[value.name], "expected a name that is free, found this", "one-name"))
                result[value.name] = value
        except StepProblems as error:
            problems += error.problems
    require(problems)
    return ordered(result.values())


def _split_sources(tensors: Tensors, step: Split) -> Iterator[tuple[str, tuple[str, str]]]:
    """The tensors that are split, each with the module that its parts go to, and their suffix."""
    stacks = Pattern(step.experts or "")
    for name in tensors:
        if step.experts is None:
            path, _, suffix = name.rpartition(".")
            parent, _, last = path.rpartition(".")
            if last == step.from_:
                yield name, (parent, suffix)
            continue
        parent, _, last = name.rpartition(".")
        suffix = "weight" if last == step.from_ else last.removeprefix(f"{step.from_}_")
        if last in (step.from_, f"{step.from_}_bias") and stacks.matches(parent):
            yield name, (parent, suffix)


def _split_value(value: Value, parent: str, suffix: str, step: Split) -> Iterator[Value]:
    if value.dtype not in FLOATS or suffix not in ("weight", "bias"):
        raise StepProblems([about(value, f"expected an unquantised weight, found {value.dtype}", "same-parts")])
    if step.experts is None:
        yield from _split_rows(value, parent, suffix, step)
        return
    if len(value.shape) < 2 or 0 in value.shape:
        raise StepProblems([about(value, f"expected a dimension of experts, found {list(value.shape)}", "same-parts")])
    outputs = [Spec(suffix, value.dtype, value.shape[1:])] * value.shape[0]
    _, experts = make_call("split-experts", [Argument("tensor", value)], outputs)
    for number, expert in enumerate(experts):
        yield from _split_rows(renamed(expert, value.name), join(parent, str(number)), suffix, step)


def _split_rows(value: Value, parent: str, suffix: str, step: Split) -> Iterator[Value]:
    count = len(step.into)
    if count == 1:
        yield renamed(value, join(parent, step.into[0], suffix))
        return
    _require_rows(value, count)
    outputs = [Spec(suffix, value.dtype, (value.shape[0] // count, *value.shape[1:]))] * count
    _, parts = make_call("split-rows", [Argument("tensor", value)], outputs, parts=count, interleave=step.interleave)
    for part, result in zip(step.into, parts, strict=True):
        yield renamed(result, join(parent, part, suffix))


def _require_rows(value: Value, count: int) -> None:
    if len(value.shape) != 2 or 0 in value.shape or value.shape[0] % count:
        wanted = "rows and columns" if count == 1 else f"a multiple of {count} rows, and columns"
        raise StepProblems([about(value, f"expected {wanted}, found {list(value.shape)}", "same-parts")])
