"""Reports on a terminal: they fit, they lose nothing, and colour is never the only one to say something."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from overlay.report.blocks import Block, Heading, Marked, Table, Verbatim, plain_lines
from overlay.report.terminal import STYLES, show
from tests.bad_inputs.running import command, run_here
from tests.bad_inputs.world import BASE, INDEX, NEW, S1, S2, T1, Entry, World, build, index_of, write_json, write_shard

WIDTHS = [80, 160]
COLOUR = re.compile(r"\x1b\[[\d;]*m")
HOSTILE = "[red]x[/red] \x1b[31m\u202e 👩\u200d🚀 漢字 ❤\ufe0f [link=file:///]"

COMMANDS = {
    "init": "init --base base --graft graft -o new.yaml",
    "lock": "lock recipe/mtp.yaml",
    "plan": "plan recipe/mtp.yaml -o serve",
    "apply": "apply recipe/mtp.yaml -o serve",
    "build": "build recipe/mtp.yaml -o built",
    "status": "status target",
    "history": "history target",
    "undo": "undo target",
    "verify": "verify damaged",
    "mend": "verify damaged --fix fixed.index.json",
    "inspect": "inspect base --shards",
    "diff": "diff base damaged --tensors",
    "audit": "audit damaged --against base --claim '7 tensors' --claim '1 tensors'",
    "register": "explain",
    "explain": "explain MTP001",
    "trace": f"explain {T1} target",
    "schema": "schema",
    "demo": "demo replica",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, with a target that has been two trees and was edited, and a checkpoint with hostile names."""
    root = tmp_path_factory.mktemp("terminal")
    world = build(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("OVERLAY_CACHE", str(root / "cache"))
        for options in ("", "--link copy"):
            assert 0 == run_here(shlex.split(f"apply recipe/mtp.yaml -o target -q {options}")).code
    (root / "target/config.json").write_text("{}")
    _damage(world)
    return root


@pytest.fixture
def world(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "w"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("OVERLAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return root


def _damage(world: World) -> None:
    """``damaged``: the base with a hostile name, a changed shape, a tensor less, an orphan, a stray and another config."""
    shutil.copytree(world / "base", world / "damaged")
    tensors: dict[str, Entry] = {**BASE[S2], HOSTILE: ("F32", [1]), T1: ("F32", [2, 4])}
    del tensors["model.norm.weight"]
    write_shard(world / "damaged" / S2, tensors)
    write_shard(world / "damaged" / NEW, {"model.layers.9.weight": ("F32", [3])})
    write_json(world / "damaged" / INDEX, index_of({S1: BASE[S1], S2: {**tensors, "phantom": ("F32", [1])}}))
    (world / "damaged/config.json").write_text('{"model_type": "glm_moe_dsa", "num_nextn_predict_layers": 1}')


def rendered(blocks: Iterable[Block], width: int, **options: object) -> str:
    """What a terminal gets."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=25, force_terminal=True, color_system="standard", **options)  # type: ignore[arg-type]
    show(blocks, console)
    return out.getvalue()


def marks_of(text: str) -> Counter[str]:
    """The characters that one sees."""
    return Counter(character for character in text if not character.isspace())


def collected(line: str, monkeypatch: pytest.MonkeyPatch) -> list[Block]:
    """The blocks that a command prints for people."""
    blocks: list[Block] = []
    for module in ("overlay.cli.output.say", "overlay.cli.demo.say"):
        monkeypatch.setattr(module, blocks.extend)
    run_here(shlex.split(line))
    assert blocks
    return blocks


# Every verb


@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_what_a_verb_says_fits_and_nothing_is_lost(line: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = collected(line, monkeypatch)
    fitting = [block for block in blocks if not isinstance(block, Verbatim)]
    plain = "\n".join(plain_lines(fitting))

    for width in WIDTHS:
        text = COLOUR.sub("", rendered(fitting, width))

        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines()), default=0) <= width
        assert marks_of(plain) == marks_of(text)
    assert all(line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("verb", [verb for verb in COMMANDS if verb not in ("plan", "demo")])
def test_what_a_pipe_gets_is_plain(verb: str, world: Path) -> None:
    again = world.parent / "again"
    shutil.copytree(world, again, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        lines = list(plain_lines(collected(COMMANDS[verb], patch)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(again)
        piped = run_here(shlex.split(COMMANDS[verb])).out

    assert piped.splitlines() == [line.replace(str(world), str(again)) for line in lines]
    assert "\x1b" not in piped


def test_the_demonstration_has_room_for_its_plan_and_says_what_it_left_out(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plan,) = (block for block in collected("demo replica", monkeypatch) if isinstance(block, Table))

    assert 17 == len(plan.rows)
    assert ("…", "39 more", "", "") == tuple(plan.rows[3])


@pytest.mark.parametrize("line", ["schema", "diff base damaged --tensors --format markdown"])
def test_what_is_meant_for_machines_is_never_folded(line: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = collected(line, monkeypatch)

    assert "".join(f"{line}\n" for line in plain_lines(blocks)) == rendered(blocks, 20)


# Lines


def test_the_rest_of_a_long_line_is_indented() -> None:
    lines = rendered([Marked("", "error", ": IDX003 " + "word " * 20)], 40).splitlines()

    assert len(lines) > 2
    assert all(line.startswith("    word") for line in lines[1:])


def test_a_line_breaks_between_words_and_not_before_a_unit() -> None:
    assert ["a word and another one,", "    2.71 MB of it"] == rendered(
        ["a word and another one, 2.71 MB of it"], 28
    ).split("\n")[:2]


def test_a_name_without_blanks_breaks_at_its_marks_the_better_ones_first() -> None:
    where = "model.layers.{0-2,6,10,14,18}.self_attn.indexer.**"

    lines = rendered([Table([("moved", where, "1")], flexible=(1,))], 40).splitlines()

    assert ["moved", "model.layers.{0-2,6,10,14,", "1"] == lines[0].split()
    assert "         18}.self_attn.indexer.**" == lines[1]


def test_a_heading_is_bold_and_a_hint_dim() -> None:
    assert "\x1b[1mchanges\x1b[0m\n\x1b[2m  hint: look\x1b[0m\n" == rendered(
        [Heading("changes"), Marked("  ", "hint", ": look")], 80
    )


# Tables


def test_numbers_stand_below_numbers() -> None:
    table = Table([("added", "1", "x"), ("dropped", "1,234", "y")], numbers=(1,))

    assert ["  added        1  x", "  dropped  1,234  y"] == list(plain_lines([table]))


def test_the_plain_form_of_a_table_is_never_folded() -> None:
    assert [f"  {'a' * 500}  {'b' * 500}"] == list(plain_lines([Table([("a" * 500, "b" * 500)])]))


def test_an_empty_table_is_nothing() -> None:
    assert [] == list(plain_lines([Table([])]))
    assert "" == rendered([Table([])], 80)


def test_only_flexible_columns_give_way_while_they_can() -> None:
    row = ("holds", "a claim " * 6, "(README.md)", "a reason " * 6)

    lines = rendered([Table([row], flexible=(1, 3))], 80).splitlines()

    assert 2 == len(lines)
    assert ["holds", "(README.md)"] == [word for word in ("holds", "(README.md)") if word in lines[0].split()]
    assert lines[1].split() == ["claim", "a", "claim", "a", "claim", "reason", "a", "reason", "a", "reason"]


def test_a_last_column_without_room_stands_below_its_row() -> None:
    rows = [("link", "m" * 40, "1 B", "<- " + "p" * 40), ("copy", "LICENSE", "1 B", "<- LICENSE")]

    assert [
        f"  link  {'m' * 40}  1 B",
        f"        <- {'p' * 40}",
        f"  copy  LICENSE{' ' * 33}  1 B  <- LICENSE",
    ] == rendered([Table(rows)], 80).splitlines()


# Colour


@pytest.mark.parametrize(
    ("word", "code"),
    [
        *(("added", 32), ("holds", 32), ("ok", 32), ("clean", 32)),
        *(("dropped", 31), ("removed", 31), ("fails", 31), ("error", 31), ("dangling", 31), ("not ok", "1;31")),
        *(("retyped", 33), ("reshaped", 33), ("rewritten", 33), ("open", 33), ("warning", 33), ("modified", 33)),
        *(("moved", 36), ("renamed", 36), ("note", 36), ("identical", 2)),
    ],
)
def test_a_word_has_the_colour_of_its_meaning(word: str, code: int | str) -> None:
    assert f"\x1b[{code}m{word}" in rendered([Marked("", word, " of something")], 80)
    assert f"\x1b[{code}m" in rendered([Table([(word, "1")], kinds=0)], 80)


def test_only_the_word_itself_is_coloured_and_not_a_name_that_reads_like_it() -> None:
    assert "error: added\n" == rendered(["error: added"], 80)
    assert "  error  added\n" == rendered([Table([("error", "added")])], 80)


def test_every_colour_belongs_to_a_word_that_is_printed() -> None:
    source = "\n".join(path.read_text() for path in Path(__file__).parents[2].joinpath("overlay").rglob("*.py"))

    assert [] == [word for word in STYLES if not re.search(rf'"{word}"', source)]


# Hostile text


def test_markup_escapes_and_marks_of_strangers_are_text() -> None:
    blocks = [HOSTILE, Heading(HOSTILE), Marked(HOSTILE, "added", HOSTILE), Table([("added", HOSTILE, HOSTILE)])]

    text = rendered(blocks, 200)

    assert 6 == text.count("[red]x[/red] \\x1b[31m\\u202e 👩\\u200d🚀 漢字 ❤\ufe0f [link=file:///]")
    assert "\x1b" not in COLOUR.sub("", text)
    assert "\x1b]" not in text


_TEXT = st.text(st.one_of(st.characters(), st.sampled_from("  .,_-/{}[]漢字👩🚀\ufe0f\u0301")), max_size=60)
_TABLE = st.integers(1, 5).flatmap(
    lambda columns: st.builds(
        Table,
        st.lists(st.tuples(*[_TEXT] * columns), max_size=4),
        numbers=st.sets(st.integers(0, columns - 1)).map(tuple),
        flexible=st.sets(st.integers(0, columns - 1)).map(tuple),
        kinds=st.none() | st.integers(0, columns - 1),
        headed=st.booleans(),
    )
)


@given(
    st.lists(_TEXT | _TEXT.map(Heading) | st.builds(Marked, _TEXT, _TEXT, _TEXT) | _TABLE, max_size=4),
    st.integers(20, 90),
)
def test_whatever_is_shown_fits_and_nothing_is_lost(blocks: list[Block], width: int) -> None:
    text = COLOUR.sub("", rendered(blocks, width))

    assert marks_of("".join(plain_lines(blocks))) == marks_of(text)
    assert "\x1b" not in text
    assert all(cell_len(line) <= width for line in text.split("\n"))


# A real terminal


def on_a_terminal(arguments: list[str], **environment: str) -> str:
    """What the command writes to a terminal."""
    own, its = os.openpty()
    inherited = {name: text for name, text in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        command(arguments),
        stdin=its,
        stdout=its,
        stderr=its,
        env={**inherited, "TERM": "xterm-256color", **environment},
    )
    os.close(its)
    text = b"".join(_read(own)).decode()
    os.close(own)
    process.wait(60)
    return text.replace("\r\n", "\n")


def _read(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            some = os.read(descriptor, 65536)
        except OSError:  # Linux says so when the last writer is gone
            return
        if not some:
            return
        yield some


def test_diff_on_a_terminal_of_80_columns(world: Path) -> None:
    line = shlex.split(COMMANDS["diff"])

    text = on_a_terminal(line, COLUMNS="80")

    assert "\x1b[32madded" in text
    text = COLOUR.sub("", text)
    assert "\x1b" not in text
    assert max(map(cell_len, text.splitlines())) <= 80
    assert marks_of(run_here(line).out) == marks_of(text)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
    ],
    ids=str,
)
def test_the_environment_decides_on_colour_and_width(environment: dict[str, str], coloured: bool, world: Path) -> None:
    text = on_a_terminal(["verify", "damaged"], COLUMNS="60", **environment)

    assert coloured == ("\x1b[" in text)
    assert max(map(cell_len, COLOUR.sub("", text).splitlines())) <= 60


def test_an_error_on_a_terminal_fits_too(world: Path) -> None:
    text = on_a_terminal(["verify", "gone/" * 30], COLUMNS="80")

    assert text.startswith("\x1b[31merror\x1b[0m: ")
    assert "\x1b[2mhint: " in text
    assert max(map(cell_len, COLOUR.sub("", text).splitlines())) <= 80


def test_a_document_on_a_terminal_is_what_it_is_in_a_pipe(world: Path) -> None:
    line = ["verify", "damaged", "--json"]

    assert run_here(line).out == on_a_terminal(line, COLUMNS="40")
