"""``overlay plan`` and ``overlay apply``."""

from __future__ import annotations

import os
from typing import Literal

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import chosen_output, output_options
from overlay.report.progress import Bars
from overlay.report.text import applied_lines, plan_lines
from overlay.running.preparing import Request, read_plan
from overlay.storage.linking import LINK_MODES, LinkMode

_link = click.option(
    "--link",
    type=click.Choice(LINK_MODES),
    default="auto",
    show_default=True,
    help="How shards are placed: auto is a reflink where the file system can, else a symlink.",
)
_target = click.option("-o", "--output", "target", required=True, metavar="DIR", help="The folder to assemble.")
_graft = click.option("--graft", metavar="REF", help="A diff-only repository without a manifest; needs --base.")
_sources = click.argument("sources", nargs=-1, metavar="[MANIFEST|DIFF-REPO]...")
_engine = click.option("--engine", default="", metavar="NAME", help="Also make the manifest's changes for this engine.")


@click.command()
@_sources
@_target
@_graft
@place_options
@_link
@_engine
@output_options
def plan(
    sources: tuple[str, ...],
    target: str,
    graft: str | None,
    base: str | None,
    donor: tuple[str, ...],
    allow_root: tuple[str, ...],
    look_in: tuple[str, ...],
    link: LinkMode,
    engine: str,
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Show what apply would link, build, copy and write, with bytes; change nothing.

    \b
    Reads:   the manifest, its lock, all headers and sidecars of base and donors; no weights.
    Writes:  nothing.
    Exits:   0 a plan, 1 not what the lock says, 3 invalid input, 4 conflict, 5 environment.
    Example: overlay plan glm-5.2-nvfp4-mtp.yaml -o serve/
    """
    output = chosen_output(format_, as_json, quiet)
    request = Request(sources=sources, graft=graft, engine=engine, places=places(base, donor, allow_root, look_in))
    decided = api.plan(request, target, link=link)
    status = os.statvfs(os.path.dirname(decided.target))
    lines = plan_lines(decided, status.f_bavail * status.f_frsize)
    output.show("plan", {"plan": decided.document()}, lines, brief=decided.state)


@click.command()
@_sources
@_target
@_graft
@place_options
@_link
@_engine
@click.option(
    "--level",
    type=click.Choice(["headers", "content"]),
    default="headers",
    show_default=True,
    help="content: hash every shard before it is placed.",
)
@click.option(
    "--plan", "plan_file", metavar="FILE", help="A plan that overlay plan --json printed; refuse if it is stale."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and stop; the same as overlay plan.")
@output_options
@click.pass_context
def apply(
    ctx: click.Context,
    sources: tuple[str, ...],
    target: str,
    graft: str | None,
    base: str | None,
    donor: tuple[str, ...],
    allow_root: tuple[str, ...],
    look_in: tuple[str, ...],
    link: LinkMode,
    engine: str,
    level: Literal["headers", "content"],
    plan_file: str | None,
    dry_run: bool,
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Assemble a serving directory: links to the base's shards, new shards, private sidecars, a corrected index.

    The target is the old tree or the new one at every instant.  A second run has nothing to do.  Several manifests are
    laid over one base; they must not touch the same tensor or the same place of a sidecar.

    \b
    Reads:   the manifest, its lock, all headers and sidecars of base and donors; of weights only what a graft takes.
    Writes:  the target; beside it .DIR.overlay.lock, and .DIR.overlay-generations with the trees before; never the base.
    Exits:   0 done, 1 not what the lock or expect says, 3 invalid input, 4 conflict, 5 environment.
    Example: overlay apply glm-5.2-nvfp4-mtp.yaml -o serve/
             overlay apply mtp.yaml template-fix.yaml --engine vllm -o serve/
             overlay apply --base GLM-5.2-NVFP4/ --graft GLM-5.2-NVFP4-MTP/ -o serve/
    """
    if dry_run:
        shared = {"sources": sources, "engine": engine, "target": target, "graft": graft, "base": base, "donor": donor}
        looks = {"allow_root": allow_root, "look_in": look_in, "link": link}
        ctx.invoke(plan, **shared, **looks, format_=format_, as_json=as_json, quiet=quiet)
        return
    output = chosen_output(format_, as_json, quiet)
    request = Request(sources=sources, graft=graft, engine=engine, places=places(base, donor, allow_root, look_in))
    saved = read_plan(plan_file) if plan_file is not None else None
    done = api.apply(request, target, link=link, level=level, saved_plan=saved, reporter=Bars())
    document = {
        "target": os.path.abspath(target),
        "changed": done.changed,
        "unproven": done.unproven,
        "receipt": done.receipt.model_dump(mode="json"),
    }
    lines = applied_lines(done, target, sources[0] if len(sources) == 1 and os.path.isfile(sources[0]) else "")
    output.show("apply", document, lines, brief=os.path.abspath(target))
