"""The page in a real browser, at the width of a desk and of a telephone, light and dark."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from overlay.core.findings import about
from overlay.core.view import View
from overlay.demo.layout import SCALED_DOWN
from overlay.report.html import render_page
from tests.report.pages import base_shards, founding_case, view_of
from tests.report.test_html import HOSTILE, every_change, hostile_view

CHROMIUM = shutil.which("chromium")
WIDTHS = (1280, 400)
SCHEMES = {"dark": 0, "light": 1}
"""As Chromium numbers them."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

_MEASURE = """
const result = {inner: innerWidth, scroll: document.documentElement.scrollWidth, outside: [], rows: {}};
for (const text of document.querySelectorAll("svg text")) {
  if (!text.getClientRects().length) continue;
  const box = text.getBoundingClientRect(), frame = text.closest("svg").getBoundingClientRect();
  if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1 || box.top < frame.top - 1)
    result.outside.push(text.textContent);
}
const input = document.getElementById("search");
result.searchable = !document.getElementById("search-form").hidden;
for (const query of QUERIES) {
  input.value = query;
  input.dispatchEvent(new Event("input"));
  result.rows[query] = [...document.querySelectorAll(".families tbody tr")]
    .filter((row) => !row.hidden && row.closest("details").open && !row.closest("details").hidden)
    .map((row) => row.cells[0].textContent);
}
parent.document.documentElement.dataset.result = JSON.stringify(result);
"""


def run_chromium(page: Path, width: int, scheme: str, *arguments: str) -> str:
    assert CHROMIUM is not None
    profile = page.parent / f"profile-{page.stem}-{width}-{scheme}-{len(arguments)}"
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *(f"--user-data-dir={profile}", f"--window-size={width},2400"),
        *(f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", *arguments, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def measure(text: str, folder: Path, width: int, queries: Sequence[str] = ()) -> dict[str, Any]:
    """What a script sees that runs in the page; for that, the policy that would keep it out is taken away.

    The page lies in a frame, because a window is never narrower than 500 pixels where there is no screen.
    """
    script = _MEASURE.replace("QUERIES", json.dumps(queries))
    opened, count = re.subn(r"<meta http-equiv=[^>]*>", "", text)
    assert count == 1
    page = folder / f"measured-{width}.html"
    framed = escape(opened.replace("</body>", f"<script>{script}</script></body>"))
    style = f"width:{width}px;height:2000px;border:0"
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8"><iframe style="{style}" srcdoc="{framed}"></iframe>')
    dumped = run_chromium(page, width + 100, "light", "--dump-dom")
    (found,) = re.findall(r'data-result="([^"]*)"', dumped)
    result: dict[str, Any] = json.loads(unescape(found))
    return result


def screenshot(text: str, folder: Path, name: str, width: int, scheme: str) -> bytes:
    page, picture = folder / f"{name}.html", folder / f"{name}-{width}-{scheme}.png"
    page.write_text(text)
    run_chromium(page, width, scheme, f"--screenshot={picture}")
    return picture.read_bytes()


def corner(png: bytes) -> tuple[int, ...]:
    """Red, green and blue of the first pixel, which no filter of PNG changes."""
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    return tuple(zlib.decompress(data)[1:4])


def with_missing_layer() -> View:
    base = base_shards(SCALED_DOWN)
    message = "num_nextn_predict_layers = 1 declares layer 78, found no tensor of it"
    return view_of(base, base, findings=(about("MTP001", "config.json", message),))


VIEWS = {
    "graft": lambda: founding_case(SCALED_DOWN),
    "missing": with_missing_layer,
    "every change": every_change,
    "hostile": lambda: hostile_view(HOSTILE),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", VIEWS)
def test_nothing_runs_over_its_edge(name: str, width: int, tmp_path: Path) -> None:
    seen = measure(render_page(VIEWS[name]()), tmp_path, width)

    assert width == seen["inner"]
    assert seen["scroll"] <= width
    assert [] == seen["outside"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_drawn_in_the_scheme_that_the_reader_prefers(width: int, scheme: str, tmp_path: Path) -> None:
    picture = screenshot(render_page(founding_case(SCALED_DOWN)), tmp_path, "page", width, scheme)
    blank = screenshot("<!DOCTYPE html><html></html>", tmp_path, "blank", width, scheme)

    assert len(picture) > 4 * len(blank)
    assert (max(corner(picture)) < 60) if scheme == "dark" else (min(corner(picture)) > 240)


def test_the_script_runs_under_the_policy_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render_page(every_change()))

    assert '<form class="search" id="search-form">' in run_chromium(page, 1280, "light", "--dump-dom")


def test_a_full_name_finds_its_family_and_no_other(tmp_path: Path) -> None:
    found = measure(
        render_page(founding_case(SCALED_DOWN)),
        tmp_path,
        1280,
        [
            "model.layers.78.mlp.experts.7.up_proj.weight",
            "model.layers.40.mlp.experts.7.up_proj.weight",
            "model.layers.78.mlp.experts.8.up_proj.weight",
            "layers.78.mlp.experts.7.",
            "LAYERS.78.input_layernorm",
            "indexer f32",
            "no.such.tensor",
            "",
        ],
    )
    rows = found["rows"]

    assert found["searchable"]
    assert ["model.layers.78.mlp.experts.{0-7}.up_proj.weight"] == rows["model.layers.78.mlp.experts.7.up_proj.weight"]
    assert ["model.layers.{3-77}.mlp.experts.{0-7}.up_proj.weight"] == rows[
        "model.layers.40.mlp.experts.7.up_proj.weight"
    ]
    assert [] == rows["model.layers.78.mlp.experts.8.up_proj.weight"] == rows["no.such.tensor"] == rows["indexer f32"]
    assert 3 == len(rows["layers.78.mlp.experts.7."])
    assert ["model.layers.78.input_layernorm.weight"] == rows["LAYERS.78.input_layernorm"]
    assert 26 == len(rows[""])  # what was added; the unchanged are folded up
