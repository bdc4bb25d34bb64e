"""The colours of the page: everything is told from the paper, light and dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import overlay.report

_CSS = (Path(overlay.report.__file__).parent / "templates" / "page.css").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_from_the_paper(scheme: str) -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for what is drawn, also where it is faded."""
    light, _, rest = _CSS.partition("@media (prefers-color-scheme: dark)")
    block = light if scheme == "light" else rest.partition("\n}\n")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    (fade,) = re.findall(r"--fade: ([\d.]+)", block)

    for text in ("ink", "soft", "bad", "warn", "good", "note"):
        assert contrast(colours[text], colours["paper"]) >= 4.5
        assert contrast(colours[text], colours["card"]) >= 4.5
    for hue in ("bf16", "f16", "f32", "f8", "packed", "int", "other"):
        assert contrast(mixed(colours[hue], colours["paper"], float(fade)), colours["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def mixed(one: str, other: str, share: float) -> str:
    pairs = ((int(one[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02x}" for a, b in pairs)
