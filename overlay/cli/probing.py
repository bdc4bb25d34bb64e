"""``overlay probe``."""

from __future__ import annotations

import os
import sys

import click

from overlay import api
from overlay.cli.output import chosen_output, output_options
from overlay.core.probing import DEFAULT_PROMPTS, ENGINES, EngineName
from overlay.report.probing import probe_lines, probe_markdown
from overlay.running.probing import read_prompts
from overlay.storage.documents import write_document

_KEY_VARIABLE = "OVERLAY_API_KEY"
_MOST = 256


@click.command()
@click.argument("url")
@click.option("--engine", type=click.Choice(ENGINES), help="What the server is, where it does not say so itself.")
@click.option(
    "--prompts", metavar="FILE", help="Texts to complete, one a line; without it a few that come with overlay."
)
@click.option(
    "--tokens",
    type=click.IntRange(1, 65536),
    default=128,
    show_default=True,
    help="How many tokens a completion may have.",
)
@click.option("--sweep", metavar="N,N…", default="", help="Then measure throughput, so many completions at a time.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 86400), default=120.0, show_default=True, help="Seconds for a completion."
)
@click.option(
    "--api-key-env", metavar="NAME", help=f"The environment variable with the server's key.  [{_KEY_VARIABLE}]"
)
@click.option("--markdown", metavar="FILE", help="Also write the result as Markdown, for evidence.")
@output_options
def probe(
    url: str,
    engine: EngineName | None,
    prompts: str | None,
    tokens: int,
    sweep: str,
    timeout: float,
    api_key_env: str | None,
    markdown: str | None,
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Ask a running server of SGLang or vLLM whether its draft fires.

    A few texts are completed at temperature 0, and the server's counters are read before and after.  The answer is one
    of: active, garbage (drafts are made, and practically none is accepted), inert (none is made), unclear (the server
    does not count, or there were too few).  The acceptance length is the number of tokens that a step yields: 1 and what
    was accepted of a draft.

    The key of the server comes from an environment variable, and is never printed.

    \b
    Reads:   /v1/models, /v1/completions, /metrics; of SGLang /server_info, of vLLM /version.
    Writes:  the file of --markdown.
    Exits:   0 active, 1 inert, garbage or unclear, 2 usage, 3 no prompts, 5 the server cannot be asked.
    Example: overlay probe http://127.0.0.1:30000
             overlay probe http://127.0.0.1:8000 --sweep 1,4,16 --markdown benchmark/summary.md
    """
    output = chosen_output(format_, as_json, quiet)
    numbers = _numbers(sweep)
    if markdown is not None and not os.path.isdir(os.path.dirname(markdown) or "."):
        raise click.UsageError(f"expected --markdown in a folder that exists, found {markdown}")
    texts = read_prompts(prompts) if prompts is not None else DEFAULT_PROMPTS
    key = _key(api_key_env)
    found = api.probe(url, engine=engine, prompts=texts, tokens=tokens, sweep=numbers, key=key, timeout=timeout)
    if markdown is not None:
        write_document(markdown, probe_markdown(found).encode())
    output.show("probe", found.document(), probe_lines(found), brief=found.judgement.verdict)
    sys.exit(0 if found.active else 1)


def _key(variable: str | None) -> str:
    if variable is not None and variable not in os.environ:
        raise click.UsageError(f"expected the environment variable {variable}, found none of that name")
    return os.environ.get(variable or _KEY_VARIABLE, "")


def _numbers(sweep: str) -> tuple[int, ...]:
    words = [word.strip() for word in sweep.split(",")] if sweep else []
    numbers = tuple(int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 6)
    if len(numbers) != len(words) or not all(1 <= number <= _MOST for number in numbers):
        raise click.UsageError(f"expected --sweep with numbers from 1 to {_MOST}, such as 1,4,16, found {sweep}")
    return numbers
