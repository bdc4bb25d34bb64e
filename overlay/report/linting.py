"""What lint found, as text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from overlay.engines.predicting import Prediction
from overlay.engines.remarks import Remark
from overlay.report.blocks import Block, Heading, Marked, Table
from overlay.running.linting import Lint

_COLUMNS = ("engine", "target", "draft")


def lint_lines(lint: Lint) -> Iterator[Block]:
    """The predictions as a table, then the reasons of each engine."""
    against = f" beside {lint.target}" if lint.target is not None else ""
    yield Heading(f"{lint.subject}{against}")
    rows = [(one.engine.title, one.target, one.draft) for one in lint.predictions]
    yield Table([_COLUMNS, *rows], headed=True)
    for prediction in lint.predictions:
        yield from _reasons(prediction, asked=lint.asked)
    if lint.unread:
        yield f"{lint.unread} scales and shapes were not read: they lie elsewhere, or are not made yet"
    yield from _last_line(lint)
    if lint.written:
        profiles = " or ".join(f"--engine {name}" for name in lint.profiles)
        so = "makes it so" if not lint.failing else "makes as much of it as a manifest can"
        yield f"written: {lint.written}; overlay apply {lint.written} {profiles}{' ' if profiles else ''}-o DIR {so}"


def _reasons(prediction: Prediction, *, asked: bool) -> Iterator[Block]:
    if not prediction.remarks:
        return
    yield Heading(prediction.engine.title)
    for code, same in groupby(prediction.remarks, key=lambda said: said.finding.code):
        listed = list(same)
        for said in listed[:_FEW]:
            text = f": {said.finding.subject}: {said.finding.message}{_consequence(said)}"
            yield Marked(f"{code} ", said.severity.value, text)
        if len(listed) > _FEW:
            yield f"  and {len(listed) - _FEW:,} more {code}; --json lists all"
        if any(said.fails(asked=asked) for said in listed):
            yield f"  hint: {listed[0].finding.hint}"


_FEW = 5
"""Findings of one code that are printed for an engine; a JSON document holds all of them."""


def _consequence(said: Remark) -> str:
    about = {"both": "target and draft", "target": "target", "draft": "draft"}[said.scope]
    return f" -> {about}: {said.effect}" if said.effect != "none" else ""


def _last_line(lint: Lint) -> Iterator[Block]:
    failing = [one.engine.title for one in lint.failing]
    silent = [one.engine.title for one in lint.predictions if one.draft == "absent" and not one.fails(asked=lint.asked)]
    without = f"; no draft for {', '.join(silent)}" if silent else ""
    yield f"not ok for {', '.join(failing)}" if failing else f"ok{without}"


def load_lines(lint: Lint) -> Iterator[Block]:
    """What each engine would load: files in order, then the parameters of target and draft."""
    loads = lint.loads()
    for prediction in lint.predictions:
        load = loads[prediction.engine.name]
        yield Heading(f"{prediction.engine.title} opens {len(load.files)} files (order: {load.order})")
        yield from (f"  {name}" for name in load.files)
        if load.parameters:
            shared = f"; the draft takes {load.shared} from the target" if load.shared else ""
            yield Heading(f"{prediction.engine.title} fills{shared}")
            rows = [(one.stage, one.name, f"{one.found} of {one.expected}", one.state) for one in load.parameters]
            yield Table([("model", "parameter", "tensors", "state"), *rows], numbers=(2,), flexible=(1,), headed=True)
