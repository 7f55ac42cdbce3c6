"""Diagrams that show records: what is drawn is what was measured."""

import html
import math
import re
from xml.etree import ElementTree

import diagrams
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PROJECT

from lth_core import Mask

STUDIES = {
    "pruning": "resnet20-standard-paper-cifar10_jpeg-*",
    "data_order": "vgg19-standard-laptop-cifar10_jpeg-*",
}


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTH_RESULTS", str(PROJECT / "results"))
    monkeypatch.setenv("LTH_STORE", str(PROJECT / "no-runs"))


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall("<svg.*?</svg>", text, re.DOTALL)]


def drawn_angle(line: ElementTree.Element) -> float:
    x, y = (float(line.get(f"{axis}2", 0)) - float(line.get(f"{axis}1", 0)) for axis in "xy")
    return math.degrees(math.atan2(-y, x))


def test_the_angle_drawn_is_the_angle_recorded() -> None:
    """Recomputed from the CSV files alone."""
    svg = "{http://www.w3.org/2000/svg}"
    for picture, (name, study) in zip(pictures(diagrams.valleys()), STUDIES.items(), strict=True):
        fan = diagrams.FANS[name]
        (file,) = (PROJECT / "results").glob(f"{study}/records.csv")
        rows = pd.read_csv(file)
        rows = rows[(rows["metric"] == fan.metric) & (rows["level"] == fan.level)]
        each = rows.groupby(["method", "rewind", "replicate"])["value"].mean()
        expected = [each[method][k].mean() for method, k in fan.rays]
        lines = list(picture.iter(f"{svg}line"))
        assert [drawn_angle(line) for line in lines] == pytest.approx([0, *sorted(expected)], abs=1e-3)
        lengths = [math.dist(*[[float(line.get(f"{a}{n}", 0)) for a in "xy"] for n in "12"]) for line in lines]
        assert lengths == pytest.approx([diagrams.LENGTH] * len(lengths), abs=1e-3)
        seen = html.unescape(picture.get("aria-label", ""))
        assert all(f" {angle:.0f}°" in seen for angle in expected)
        assert len(seen.split()) <= 60


def test_names_of_rays_do_not_lie_on_each_other() -> None:
    for picture in pictures(diagrams.valleys()):
        heights = [float(text.get("y", 0)) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
        assert len(heights) == 3 + len(set(heights[3:]))
        assert min(abs(a - b) for a in heights for b in heights if a != b) >= 15


def shade_of(picture: ElementTree.Element, x: int, y: int) -> float:
    """The opacity of a square."""
    paths = picture.iter("{http://www.w3.org/2000/svg}path")
    return sum(float(path.get("fill-opacity", 0)) for path in paths if f"M{x} {y}h1" in path.get("d", ""))


def test_a_pixel_is_as_dark_as_it_keeps_weights() -> None:
    kept = torch.zeros(28, 28)
    kept[3, 5], kept[9, 9] = 60, 30
    (picture,) = pictures(diagrams._map("a mask", kept, 60))
    assert (shade_of(picture, 5, 3), shade_of(picture, 9, 9), shade_of(picture, 0, 0)) == (1.0, 0.5, 0.0)
    assert picture.get("aria-label") == "a mask: a pixel in the middle keeps 0 weights on average, one in a corner 0"


def test_the_masks_are_those_of_the_committed_tickets() -> None:
    (study,) = (PROJECT / "results" / "tickets").glob("lenet_300_100-*")
    text = diagrams.masks()
    kept = [Mask.load(study / folder / "mask.safetensors")["fc1.weight"].numpy() for folder in diagrams.MASKS.values()]
    counts = [layer.sum(0).reshape(28, 28) for layer in kept]
    assert f"{max(each.max() for each in counts)} at most" in text
    assert f"each with {100 * kept[0].mean():.0f}% of its weights" in text
    for picture, count in zip(pictures(text), counts, strict=True):
        y, x = np.unravel_index(count.argmax(), count.shape)
        assert shade_of(picture, int(x), int(y)) >= count.max() / max(each.max() for each in counts) - 0.01
        assert f"middle keeps {count[7:21, 7:21].mean():.0f} weights" in picture.get("aria-label", "")
