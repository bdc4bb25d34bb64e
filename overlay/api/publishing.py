"""Publishing: the verb that puts a repository of the difference on the Hub, `publish`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from overlay.core.carding import CardProblem, choose, front_of, merge
from overlay.core.findings import Finding, about, errors
from overlay.core.progress import Reporter, Silent
from overlay.core.publish_gate import ALLOWABLE, find_obstacles
from overlay.core.publish_terms import find_licence_obstacles, name_of_licence
from overlay.core.publishing import (
    Destination,
    Origin,
    PublishPlan,
    Repository,
    decide,
    mode_for,
    notes_for,
    wanted,
)
from overlay.errors import UsageError
from overlay.formats.front_matter import read_front_matter
from overlay.formats.names import CARD_NAME
from overlay.formats.references import HubReference, parse_reference
from overlay.running.locating import Places
from overlay.running.publishing import (
    Published,
    carry_out,
    made_item,
    read_destination,
    read_donor_cards,
    read_origin,
    read_repository,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """How to publish."""

    full: bool = False
    """A complete repository: the base's shards are copied on the server."""
    create_pr: bool = False
    """Propose the commit instead of making it."""
    private: bool = False
    """Of a repository that is made."""
    message: str = ""
    """Of the commit; "" for one that names the manifest."""
    allow: frozenset[str] = field(default_factory=frozenset)
    """Codes of `core.publish_gate.ALLOWABLE` that do not stop it."""


def publish(
    path: str,
    repo: str = "",
    *,
    how: Publication | None = None,
    dry_run: bool = False,
    bars: bool = False,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Published:
    """Publish the diff-only repository at `path` to ``hf://org/name``; nothing is changed while a finding is an error.

    Without `repo` the manifest's ``publish.repo`` says where.  Of `Published`, `commit` is None where nothing was changed:
    for a dry run, for errors among ``plan.findings``, and where the repository is what it should be already.
    """
    wish = how or Publication()
    _require_allowable(wish.allow)
    repository = read_repository(path, places or Places(), reporter or Silent())
    target = _destination(repo or (repository.manifest.publish.repo if repository.manifest.publish else ""), path)
    plan = _plan(repository, target, wish)
    if dry_run or errors(plan.findings):
        return Published(plan, None)
    return carry_out(plan, bars=bars)


def _plan(repository: Repository, repo: str, how: Publication) -> PublishPlan:
    """Look at the Hub, and decide; asks for reading alone."""
    mode = mode_for(repository.manifest, repo, full=how.full)
    if mode == "change" and how.full:
        problem = "expected another repository than the base's for --full, found the base's own"
        raise UsageError(problem, subject=f"hf://{repo}", hint="leave --full out: the base's shards are there")
    destination = read_destination(repo, must_exist=how.create_pr)
    origin = read_origin(repository)
    card, terms, note = _card(repository, origin, destination, how)
    findings = [
        finding
        for finding in find_obstacles(repository, origin, destination, mode, terms)
        if finding.code not in how.allow
    ]
    items = wanted(repository, origin, mode)
    if mode != "change" and card:
        items.append(made_item(CARD_NAME, card))
    plan = PublishPlan(
        repo=repo,
        mode=mode,
        parent=destination.head,
        create_pr=how.create_pr,
        private=how.private,
        message=how.message or f"Publish {repository.manifest.name}",
        description=_description(repository, origin),
        operations=decide(items, destination),
        findings=tuple(findings),
        notes=(*notes_for(repository, mode), *filter(None, [note])),
    )
    return replace(plan, operations=()) if repository.lock is None else plan


def _card(
    repository: Repository, origin: Origin | None, destination: Destination, how: Publication
) -> tuple[bytes, list[Finding], str]:
    """The card to publish, what stands against its licences, and a note on the text that was not taken."""
    from overlay.report.card import Facts, front_for, render_part, source_of, stub_for  # Jinja2

    manifest, lock = repository.manifest, repository.lock
    mode = mode_for(manifest, destination.repo, full=how.full)
    own, note = choose(repository.text_of(CARD_NAME), destination.card)
    stated = {"license": manifest.license} if manifest.license else read_front_matter(own)
    if manifest.license and origin is not None:  # `other` is told apart by the name that goes with it
        stated = {**read_front_matter(origin.card), **read_front_matter(own), "license": manifest.license}
    if mode == "change":
        stated = read_front_matter(destination.card)
    ours = name_of_licence(stated)
    licences = {name: name_of_licence(read_front_matter(card)) for name, card in read_donor_cards(repository).items()}
    theirs = {f"donor {name} ({manifest.donors[name]})": licence for name, licence in licences.items()}
    if origin is not None and mode != "change":
        theirs[f"the base ({origin.reference})"] = name_of_licence(read_front_matter(origin.card))
    terms = list(find_licence_obstacles(ours, theirs, CARD_NAME))
    if lock is None:
        return b"", terms, note
    base = None
    if manifest.base is not None:
        licence = name_of_licence(read_front_matter(origin.card)) if origin is not None else ""
        base = source_of("base", manifest.base, origin.commit if origin is not None else "", licence)
    facts = Facts(
        repo=destination.repo,
        mode=mode,
        repository=repository,
        licence=ours,
        base=base,
        donors=[
            source_of(
                name, text, (lock.donors[name].commit if name in lock.donors else None) or "", licences.get(name, "")
            )
            for name, text in sorted(manifest.donors.items())
            if text != "."
        ],
        base_front=front_of(origin.card) if origin is not None else {},
    )
    try:
        return (
            merge(own or stub_for(facts), render_part(facts), front_for(facts), repository.text_of(CARD_NAME)),
            terms,
            note,
        )
    except CardProblem as problem:
        return b"", [*terms, about("CFG001", CARD_NAME, f"expected YAML front matter, found: {problem}")], note


def _destination(text: str, path: str) -> str:
    """``org/name``, of whatever form of reference."""
    if not text:
        hint = f"overlay publish {path} hf://org/name, or publish: {{repo: org/name}} in the manifest"
        raise UsageError("expected a repository to publish to, found none", subject=path, hint=hint)
    try:
        reference = parse_reference(text if "://" in text else f"hf://{text}")
    except ValueError as error:
        raise UsageError(str(error), subject=text, hint="name a repository as hf://org/name") from None
    if not isinstance(reference, HubReference) or reference.file or reference.revision not in ("", "main"):
        problem = "expected a repository of the Hub, without a file, and its main branch"
        raise UsageError(f"{problem}, found {text}", hint="name a repository as hf://org/name")
    return reference.repo


def _require_allowable(codes: Collection[str]) -> None:
    wrong = sorted(set(codes) - set(ALLOWABLE))
    if wrong:
        problem = f"expected a code that can be allowed ({', '.join(ALLOWABLE)}), found {', '.join(wrong)}"
        raise UsageError(problem, hint=f"overlay explain {wrong[0]}")


def _description(repository: Repository, origin: Origin | None) -> str:
    lines = [repository.manifest.summary]
    if origin is not None:
        lines.append(f"Base: {origin.reference.repo} at {origin.commit}.")
    return "\n\n".join(filter(None, lines))
