"""The page that shows a comparison: what it says, what it keeps out, and how large it gets."""

from __future__ import annotations

import base64
import re
from hashlib import sha256

import pytest

from overlay.core.checking import check_draft
from overlay.core.codes import CODES
from overlay.core.diffing import Change, settle
from overlay.core.findings import Finding, about
from overlay.core.judging import Judged, Standing
from overlay.core.sidecar_diffing import Detail, Role, SidecarChange
from overlay.core.tallying import Amount
from overlay.core.view import View
from overlay.demo.layout import SCALED_DOWN
from overlay.formats.model_config import ModelConfig
from overlay.report.html import render_page
from tests.report.pages import Element, Spec, base_shards, checkpoint, founding_case, read_page, view_of

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
CONFIG = ModelConfig(
    architecture="Tiny",
    model_type="tiny",
    layers=3,
    draft_layers=1,
    draft_key="num_nextn_predict_layers",
    quant_method=None,
)
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "footer", "script"),
    *(
        "h1",
        "h2",
        "h3",
        "p",
        "dl",
        "dt",
        "dd",
        "ul",
        "li",
        "div",
        "span",
        "b",
        "i",
        "small",
        "strong",
        "code",
        "del",
        "ins",
    ),
    *("table", "colgroup", "col", "thead", "tbody", "tr", "th", "td", "details", "summary", "form", "input", "output"),
    *("svg", "defs", "pattern", "rect", "circle", "path", "text"),
}
HOSTILE = [
    "</title></td></svg><script>alert(1)</script>",
    "\"' onmouseover=alert(1) x='",
    "{{ 7*7 }}{% raw %}{# x #}",
    "\x1b]0;owned\x07\x1b[2J\r\n\x00",
    "\u202egnp.exe\u2066\u200b\ufeff",
    "&lt;b&gt;&#60;&amp;",
    "]]><!--",
    "javascript:alert(1)",
    "bad\ud800surrogate",
    "x" * 5000,
]


def layer(number: int, dtype: str = "BF16", width: int = 64) -> list[Spec]:
    return [
        (f"model.layers.{number}.self_attn.q_proj.weight", dtype, (width, width)),
        (f"model.layers.{number}.mlp.up_proj.weight", dtype, (width, 4 * width)),
        (f"model.layers.{number}.input_layernorm.weight", "F32", (width,)),
    ]


def layers(*numbers: int) -> list[Spec]:
    return [spec for number in numbers for spec in layer(number)]


def every_change() -> View:
    """A view with every change in it, with nothing left unread."""
    old = {
        FIRST: [*layers(0, 1), ("same", "U8", (5,)), ("gone", "F32", (7,))],
        SECOND: [
            ("a.rewritten", "BF16", (3,)),
            ("a.retyped", "BF16", (4,)),
            ("a.shape", "I64", (2, 3)),
            ("was", "U8", (99,)),
        ],
    }
    new = {
        FIRST: [*layers(0), ("same", "U8", (5,)), ("a.retyped", "F8_E4M3", (4,)), ("a.shape", "I64", (3, 2))],
        SECOND: [*layers(1), ("a.rewritten", "BF16", (3,)), ("now", "U8", (99,)), ("come", "F16", (11,))],
    }
    view = view_of(old, new)
    return View(kind="diff", difference=settle(view.difference, {"a.rewritten"}, {"now": "was"}))


def page_of(view: View) -> Element:
    return read_page(render_page(view))


def part(page: Element, name: str) -> str:
    """The text of a section."""
    return page.one("section", id=name).text


@pytest.fixture(scope="module")
def full_size() -> tuple[View, str]:
    view = founding_case()
    return view, render_page(view)


def test_the_full_size_case_is_a_small_page_that_says_what_was_added(full_size: tuple[View, str]) -> None:
    view, text = full_size
    page = read_page(text)

    assert len(text.encode()) < 300_000
    assert 233_087 == sum(amount.tensors for amount in view.counted.by_change.values())
    assert page.one("p", class_="verdict").text.startswith("Adds 791 tensors, 19.91 GB. The base is unchanged")
    assert "19,905,841,664 bytes" in page.one("div", id="tile-added").text
    assert "layer 78 + 791 added, 19.91 GB" in part(page, "map")


def test_equal_views_give_equal_pages(full_size: tuple[View, str]) -> None:
    assert render_page(full_size[0]) == full_size[1]


@pytest.mark.parametrize("make", [every_change, lambda: founding_case(SCALED_DOWN)], ids=["every change", "graft"])
def test_the_headline_numbers_are_those_of_the_tally(make: object) -> None:
    view = make()  # type: ignore[operator]
    page, counted = page_of(view), view.counted
    kinds = {
        "added": [Change.ADDED],
        "replaced": [Change.RETYPED, Change.RESHAPED, Change.REWRITTEN],
        "removed": [Change.REMOVED],
        "moved": [Change.MOVED, Change.RENAMED],
        "identical": [Change.IDENTICAL],
        "unread": [Change.UNREAD],
    }

    for word, changes in kinds.items():
        amounts = [counted.of(change) for change in changes]
        tile = page.one("div", id=f"tile-{word}")
        assert f"{sum(amount.tensors for amount in amounts):,}" == tile.one("dd", class_="figure").text
        if any(amount.tensors for amount in amounts):
            assert f"{sum(amount.bytes for amount in amounts):,} bytes" in tile.text
    assert {*Change} == {change for changes in kinds.values() for change in changes}


def test_the_verdict_names_every_change_and_what_is_left() -> None:
    verdict = page_of(every_change()).one("p", class_="verdict").text

    for words in (
        "Adds 1 tensor,",
        "replaces 3 tensors",
        "1 of them in another dtype",
        "removes 1 tensor,",
        "renames 1 tensor,",
    ):
        assert words in verdict
    assert "moves 3 tensors" in verdict
    assert "4 tensors identical." in verdict


def test_nothing_differs_is_said() -> None:
    view = view_of({FIRST: layers(0, 1)}, {FIRST: layers(0, 1)}, kind="audit")
    settled = View(kind="audit", difference=settle(view.difference, set()))

    assert (
        "as far as headers tell; the bytes of 6 tensors were not compared"
        in page_of(view).one("p", class_="verdict").text
    )
    assert "every tensor of it is there, byte for byte" in page_of(settled).one("p", class_="verdict").text


def test_an_audit_without_a_base_compares_nothing() -> None:
    shards = {FIRST: layers(0, 1)}
    page = page_of(view_of(shards, shards, kind="audit", alone=True, labels=("repo", "repo")))

    assert page.one("p", class_="verdict").text.startswith("Holds 6 tensors")
    assert not page.all("dl", class_="tiles")
    assert not page.all("section", id="changes")
    assert 1 == len(page.all("div", class_="side"))
    assert "unread" not in page.one("main").text


def test_a_declared_layer_that_is_missing_is_seen_in_the_map() -> None:
    view = view_of({FIRST: layers(0, 1, 2)}, {FIRST: layers(0, 1, 2)})
    findings = check_draft(view.difference.new, CONFIG)
    assert ["MTP001"] == [finding.code for finding in findings]
    with_it = view_of({FIRST: layers(0, 1, 2)}, {FIRST: layers(0, 1, 2)}, findings=tuple(findings))

    page = page_of(with_it)

    assert "Missing: layer 3, which config.json declares." in page.one("p", class_="verdict").text
    for size in ("wide", "narrow"):
        drawing = page.one("section", id="map").one("div", class_=size)
        assert 1 == len(drawing.all("rect", class_="slot"))
        assert "declared by config.json" in drawing.text
        assert "3" in [text.text for text in drawing.all("text", class_="number")]
    assert not page_of(view).one("section", id="map").one("div", class_="wide").all("rect", class_="slot")


def test_a_layer_that_neither_side_has_is_an_empty_slot() -> None:
    drawing = page_of(view_of({FIRST: layers(0, 4)}, {FIRST: layers(0, 4)})).one("div", class_="wide")

    assert "in neither checkpoint" in drawing.text
    assert "1–3" in [text.text for text in drawing.all("text", class_="number")]


def test_a_removed_layer_is_drawn_as_an_outline() -> None:
    page = page_of(view_of({FIRST: layers(0, 1, 2)}, {FIRST: layers(0, 1)}))
    drawing = page.one("div", class_="wide")

    assert "layer 2 − 3 removed" in drawing.text
    assert {"removed bf16", "removed f32"} <= {path.attributes.get("class") for path in drawing.all("path")}
    assert drawing.all("path", class_="edge")


def test_a_wrong_dtype_is_told_apart_from_its_neighbours() -> None:
    wrong = [*layers(0, 1), *layer(2, "F16"), *layers(3, 4)]
    page = page_of(view_of({FIRST: layers(0, 1, 2, 3, 4)}, {FIRST: wrong}))
    drawing = page.one("div", class_="wide")

    assert "layer 2 ~ 2 replaced" in drawing.text
    assert "BF16 → F16" in drawing.text
    assert {"replaced f16", "was bf16"} <= {path.attributes.get("class") for path in drawing.all("path")}


def test_a_pointer_learns_the_exact_counts(full_size: tuple[View, str]) -> None:
    titles = [title.text for title in read_page(full_size[1]).one("div", class_="wide").all("title")]

    assert "layer 78 · mlp.experts added BF16: 768 tensors, 19,327,352,832 bytes" in titles


def test_claims_findings_and_sidecars_are_shown_with_what_explains_them() -> None:
    view = view_of(
        {FIRST: layers(0)},
        {FIRST: layers(0)},
        kind="audit",
        findings=(about("IDX008", "model.safetensors.index.json", "expected 1, found 2"),),
        claims=(
            Judged("9 tensors", "README.md", Standing.HOLDS, "9 tensors added"),
            Judged("8 GB", "README.md", Standing.FAILS, "found 7"),
            Judged("of a/b", "README.md", Standing.OPEN, "not compared"),
        ),
        sidecars=(
            SidecarChange(
                "config.json",
                "changed",
                Role.CONFIG,
                "2 values",
                (Detail("/a/b", "1", None), Detail("", None, "[]")),
                3,
            ),
        ),
    )
    page = page_of(view)

    assert [f"{s} {t}" for s, t in (("fails", "8 GB"), ("open", "of a/b"), ("holds", "9 tensors"))] == [
        " ".join(cell.text for cell in row.all("td")[:2])
        for row in page.one("section", id="claims").one("tbody").all("tr")
    ]
    meaning = CODES["IDX008"]
    for words in ("warning", "IDX008", meaning.title, meaning.hint, *meaning.engines, *meaning.engines.values()):
        assert " ".join(words.split()) in part(page, "findings")
    for words in ("config.json changed · config", "2 values", "/a/b", "(the whole document)", "3 more places left out"):
        assert words in part(page, "sidecars")


def test_many_findings_of_one_code_are_explained_once() -> None:
    findings = tuple(Finding("IDX005", f"s.safetensors: t{n}", "is not mapped") for n in range(5000))
    text = part(page_of(view_of({FIRST: layers(0)}, {FIRST: layers(0)}, findings=findings)), "findings")

    assert 1 == text.count(CODES["IDX005"].title)
    assert "and 4,950 more" in text


def test_without_scripts_every_row_is_there_and_nothing_asks_for_one() -> None:
    view = every_change()
    page = page_of(view)

    assert "hidden" in page.one("form").attributes
    assert len(view.families) == len(
        [row for table in page.all("table", class_="families") for row in table.one("tbody").all("tr")]
    )
    assert not [row for row in page.all("tr") if "hidden" in row.attributes]


def test_the_page_can_load_nothing_and_runs_only_its_own_script() -> None:
    text = render_page(every_change())
    page = read_page(text)
    (policy,) = (m.attributes["content"] for m in page.all("meta") if m.attributes.get("http-equiv"))
    script = page.one("script")
    digest = base64.b64encode(sha256("".join(script.pieces).encode()).digest()).decode()

    assert {} == script.attributes
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + digest + "'")
    for element in page.all():
        assert element.tag in TAGS
        assert not {"src", "href", "srcset", "action", "xlink:href", "formaction"} & element.attributes.keys()
        assert not [name for name in element.attributes if name.startswith("on")]
    assert not re.search(r"url\((?!#)|@import|https?:", page.one("style").text)


def hostile_view(texts: list[str]) -> View:
    """A view that has each of the texts wherever a file can put one."""
    names = [*texts, *(f"model.layers.{n}.{text}.weight" for n, text in enumerate(texts))]
    names += [f"{text}.layers.0.mlp.weight" for text in texts]
    specs: list[Spec] = [(name, "BF16", (2, 3)) for name in dict.fromkeys(names)]
    return view_of(
        {FIRST: specs[: len(specs) // 2]},
        {
            text + ".safetensors": [(f"{n}{name}", dtype, shape) for name, dtype, shape in specs]
            for n, text in enumerate(texts)
        },
        kind="audit",
        labels=(texts[0], "".join(texts[:-1])),
        findings=tuple(Finding("IDX005", text, text, text, text) for text in texts),
        claims=tuple(Judged(text, text, Standing.OPEN, text) for text in texts),
        sidecars=tuple(SidecarChange(t, "changed", Role.CODE, t, (Detail(t, t, t),)) for t in texts),
    )


def test_names_from_files_are_text_and_nothing_else() -> None:
    text = render_page(hostile_view(HOSTILE))
    page, tame = read_page(text), page_of(hostile_view([f"tame{n}" for n in range(len(HOSTILE))]))

    kinds = {(element.tag, *sorted(element.attributes)) for element in tame.all()}
    assert {(element.tag, *sorted(element.attributes)) for element in page.all()} <= kinds
    assert 1 == len(page.all("script")) == text.count("<script")
    assert "{{ 7*7 }}" in text
    assert r"\x1b]0;owned\x07" in text
    assert r"\u202egnp.exe\u2066" in text
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]", text
    )
    assert text.encode()
    assert len(text) < 500_000


def test_many_names_that_have_nothing_in_common_leave_the_page_small() -> None:
    names = [f"{'<' * 40}{n:x}x{'&' * 40}.{n:x}z" for n in range(20_000)]
    text = render_page(view_of({FIRST: []}, {FIRST: [(name, "U8", (n,)) for n, name in enumerate(names)]}))

    assert len(text.encode()) < 2_000_000
    assert "the largest are shown" in re.sub(r"[\d,]+ largest", "largest", text)
    assert "rows left out: those that differ come first" in text


def test_many_layers_and_stacks_leave_the_page_small() -> None:
    old = {FIRST: [(f"s{n % 40}.layers.{n * 3}.c{n % 50}.weight", "BF16", (n % 7, 8)) for n in range(20_000)]}
    new = {FIRST: [(name, "F16", shape) for name, _, shape in old[FIRST]]}
    text = render_page(view_of(old, new))

    assert len(text.encode()) < 2_000_000
    assert "more lines left out" in text
    assert "Not drawn: " in text


def test_alike_neighbours_of_a_very_deep_stack_are_one_line() -> None:
    view = view_of({FIRST: layers(*range(1000))}, {FIRST: [*layers(*range(1000)), *layers(1000)]})
    drawing = page_of(view).one("div", class_="wide")

    assert {"0–999", "1000"} == {text.text for text in drawing.all("text", class_="number")}


@pytest.mark.parametrize(
    "shards", [{}, {FIRST: []}, {FIRST: [("nothing", "BF16", (0, 4))]}], ids=["no shard", "empty", "0 B"]
)
def test_checkpoints_that_hold_nothing_have_a_page(shards: dict[str, list[Spec]]) -> None:
    assert page_of(view_of({}, shards)).one("p", class_="verdict").text
    assert page_of(view_of(shards, {})).one("p", class_="verdict").text


def test_the_sides_show_all_that_they_hold() -> None:
    old, new = page_of(founding_case(SCALED_DOWN)).all("div", class_="side")
    base = checkpoint("base", base_shards(SCALED_DOWN))

    assert f"base {sum(len(s.header) for s in base.shards.values()):,} tensors" in old.text
    assert "45 shards" in old.text
    assert "46 shards" in new.text
    assert ["BF16", "U8", "F8_E4M3", "F32"] == [key.one("span", class_="mono").text for key in old.all("li")]


def test_what_is_left_out_is_the_unchanged_and_the_small() -> None:
    shared: list[Spec] = [(f"same{n:x}z", "U8", (1000,)) for n in range(3000)]
    added: list[Spec] = [(f"added{n:x}z", "U8", (n + 1,)) for n in range(100)]
    view = view_of({FIRST: shared}, {FIRST: shared, SECOND: added})
    groups = {group.one("summary").text.split()[0]: group for group in page_of(view).all("details")}

    assert 100 == len(groups["added"].one("tbody").all("tr"))
    assert "in 3,000 rows; the 2,400 largest are shown" in groups["unread"].one("summary").text
    assert Amount(100, 5050, 5050) == view.counted.of(Change.ADDED)
