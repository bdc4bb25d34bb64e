"""Auditing: what a checkpoint adds to its base, which claims hold, and what in it can do harm."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from overlay.core.checking import check, check_draft
from overlay.core.checkpoint import Checkpoint, FileSeen, TensorSource
from overlay.core.claims import Claim, ClaimProblem, find_claims, parse_claims
from overlay.core.completing import complete
from overlay.core.diffing import Change, Difference, diff, source_of
from overlay.core.findings import Finding
from overlay.core.judging import Judged, Standing, judge, judge_base, judge_donor
from overlay.core.progress import Reporter
from overlay.core.risks import find_risks
from overlay.core.view import View
from overlay.errors import EnvironmentFault, InvalidInput, UsageError
from overlay.formats.model_config import parse_model_config
from overlay.formats.names import CARD_NAME
from overlay.formats.strict_json import JsonProblem
from overlay.running.comparing import compare_content
from overlay.running.diffing import composed, diff_sidecars, manifest_of, open_whole, require_whole, text_of
from overlay.running.locating import Places, folder_of, locate, open_checkpoint
from overlay.storage.files import read_document
from overlay.storage.ranges import equal_ranges
from overlay.storage.seen import MAX_SIDECAR_BYTES, SharedHeaders, read_beginning
from overlay.storage.stores import is_file, path_here
from overlay.storage.targets import read_receipt

_STATED = "--claim"
_SHADOWS = frozenset({"IDX015", "IDX016"})
"""Codes of file names that redirect a named loader; SEC010 says nothing new beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an audit is asked."""

    target: str
    against: str | None = None
    """The base; None means the one that the target was assembled from, else the target alone is asked about."""
    claims: tuple[str, ...] = ()
    """Statements that the user wants to see proven."""
    content: bool = False
    """Whether bytes are compared."""
    jobs: int = 0
    places: Places = field(default_factory=Places)
    """Its donors are local copies of the repositories that claims speak of."""


def audit_checkpoint(question: Question, reporter: Reporter) -> View:
    """Answer an audit.

    Reads every header and the small files of both sides; with content, both sides of every tensor that headers cannot tell
    apart, and the donors' tensors that claims speak of.

    Raises:
        InvalidInput: the target or the base is no checkpoint, or a shard cannot be read.
        EnvironmentFault: something cannot be read.
    """
    base, target = _open(question)
    difference = diff(base or target, target)
    if question.content:
        difference = compare_content(difference, reporter, renames=True, jobs=question.jobs)
    view = View(
        kind="audit",
        difference=difference,
        alone=base is None,
        sidecars=diff_sidecars(base, target) if base is not None else (),
        findings=tuple(_findings(base, target)),
    )
    return view.with_claims(_judged(question, view, reporter))


def _open(question: Question) -> tuple[Checkpoint | None, Checkpoint]:
    """The base, if there is one, and the target."""
    places = question.places
    manifest = manifest_of(question.target, places)
    if manifest:
        from overlay.running.opening import open_manifest  # 0.1 s that audits of directories need not wait for

        confined = manifest != question.target
        opened = open_manifest(manifest, replace(places, base=question.against, donors={}, confined=confined))
        return opened.base, composed(opened, question.target)
    against = question.against or _base_of(question.target, places)
    if against is None:
        return None, open_whole(question.target, places)
    shared: SharedHeaders = {}
    base = open_whole(against, places, shared=shared)
    seen = open_checkpoint(question.target, locate(question.target, ".", places), places, partial=True, shared=shared)
    target = complete(seen, base).checkpoint
    require_whole(target)
    return base, target


def _base_of(target: str, places: Places) -> str | None:
    """The folder of the base that a target of ours was assembled from, where all of it is still in one place."""
    receipt, _ = read_receipt(locate(target, ".", places))
    if receipt is None:
        return None
    folders = {os.path.dirname(f.source) for f in receipt.files.values() if f.origin == "base" and f.source}
    return folders.pop() if len(folders) == 1 and all(map(os.path.isdir, folders)) else None


def _findings(base: Checkpoint | None, target: Checkpoint) -> list[Finding]:
    """What is wrong with the target, and what in it can do harm that the base cannot."""
    texts = {name: text_of(sidecar) for name, sidecar in target.sidecars.items()}
    before = {name: text_of(sidecar) for name, sidecar in base.sidecars.items()} if base is not None else None
    names = {*base.sidecars, *base.strays, *base.left_out, *base.shards} if base is not None else set()
    magic = {name: read_beginning(file) for name, file in target.strays.items() if file.exists}
    same = {name for name, file in target.strays.items() if base is not None and _is_same(file, base.strays.get(name))}
    risks = find_risks(before, texts, target.strays, target.left_out, names, magic, same=same)
    found = {*check(target), *_draft(target, texts)}
    shadows = {finding.file for finding in found if finding.code in _SHADOWS}
    return sorted({*found, *(risk for risk in risks if risk.code != "SEC010" or risk.file not in shadows)})


def _is_same(one: FileSeen, other: FileSeen | None) -> bool:
    """Whether two files are one, or a content-addressed store calls them by one digest."""
    if other is None:
        return False
    stated = one.stated_sha256 and one.stated_sha256 == other.stated_sha256
    return bool(stated) or one.fingerprint[:2] == other.fingerprint[:2]


def _draft(target: Checkpoint, texts: dict[str, bytes]) -> list[Finding]:
    try:
        return check_draft(target, parse_model_config(texts["config.json"]))
    except (KeyError, JsonProblem):  # the risks say what is wrong with it
        return []


def _judged(question: Question, view: View, reporter: Reporter) -> list[Judged]:
    """Every claim that was made, each with its standing."""
    difference, alone = view.difference, view.alone
    judged = [] if alone else [judge_base(difference)]
    for claim in (*_stated(question.claims), *_of_card(difference.new, _own_card(question))):
        if claim.kind != "donor":
            judged.append(judge(claim, difference, view.counted, meant=claim.source == _STATED))
        elif not alone:
            judged.append(_judge_donor(claim, difference, question, reporter))
    return judged


def _stated(texts: Iterable[str]) -> list[Claim]:
    """The user's claims.

    Raises:
        UsageError: one of them says nothing that can be held against a checkpoint.
    """
    claims = []
    for text in texts:
        try:
            claims += parse_claims(text, _STATED)
        except ClaimProblem as problem:
            hint = 'for example "791 tensors", "790 BF16 + 1 F32", "80 bytes added", "unmodified tensors of org/name"'
            raise UsageError(str(problem), subject=_STATED, hint=hint) from None
    return claims


def _of_card(target: Checkpoint, own: bytes | None) -> list[Claim]:
    """The claims of the card: a repository's own, where there is one, since what it describes has the base's."""
    card = target.sidecars.get(CARD_NAME)
    text = own if own is not None or card is None else text_of(card)
    return find_claims(text.decode(errors="replace"), CARD_NAME) if text is not None else []


def _own_card(question: Question) -> bytes | None:
    """The card of a repository that holds a difference."""
    manifest = manifest_of(question.target, question.places)
    path = os.path.join(folder_of(manifest), CARD_NAME) if manifest else ""
    if not path or manifest == question.target or not is_file(path):
        return None
    return read_document(path_here(path), MAX_SIDECAR_BYTES, "card")


def _judge_donor(claim: Claim, difference: Difference, question: Question, reporter: Reporter) -> Judged:
    """Hold the tensors that were added or replaced against the donor, tensor by tensor."""
    wanted = _brought(difference)
    try:
        given = question.places.donors.get(claim.donor)
        where = locate(given or f"hf://{claim.donor}", ".", question.places)
        donor = open_checkpoint(claim.donor, where, question.places, partial=True)
    except (EnvironmentFault, InvalidInput) as error:
        reason = f"{error.problem}; --donor {claim.donor}=PATH names a copy"
        return Judged(claim.text, claim.source, Standing.OPEN, reason)
    pairs = [(source, _found(donor, source)) for source in wanted]
    absent = [source.name for source, found in pairs if found is None]
    differing = []
    if question.content and not absent:
        with reporter.task(f"comparing with {claim.donor}", sum(s.end - s.begin for s in wanted)) as advance:
            differing = [s.name for s, found in pairs if found is not None and not equal_ranges(s, found, advance)]
    return judge_donor(claim, [s.name for s in wanted], absent, differing, question.content)


def _brought(difference: Difference) -> Sequence[TensorSource]:
    """The tensors that the target has and the base has not, or has otherwise."""
    kinds = (Change.ADDED, Change.RETYPED, Change.RESHAPED, Change.REWRITTEN)
    shards = difference.new.shards
    return [source_of(shards[c.new], c.name) for c in difference.changes if c.change in kinds]


def _found(donor: Checkpoint, wanted: TensorSource) -> TensorSource | None:
    """The donor's tensor of this name, dtype and shape."""
    shard = donor.shards.get(donor.weight_map.get(wanted.name, ""))
    if shard is None or wanted.name not in shard.header:
        return None
    source = source_of(shard, wanted.name)
    return source if (source.dtype, source.shape) == (wanted.dtype, wanted.shape) else None
