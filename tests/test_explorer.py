"""The page Explorer: its data are the records, its presets show something, and the page draws what Python draws."""

import csv
import gzip
import html
import json
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from conftest import PROJECT
from typer.testing import CliRunner

from lth_study.cli import app
from lth_study.report.looks import LOOKS

vl_convert = pytest.importorskip("vl_convert", reason="needs the extra 'book'")
explorer = pytest.importorskip("explorer")

RESULTS = PROJECT / "results"
TEMPLATE = PROJECT / "book" / "evidence" / "explorer.md"
SCRIPT = PROJECT / "book" / "_static" / "explorer.js"
LOADS = re.compile(r"""(?:fetch|import|importScripts|open)\s*\([^)]{0,20}["'](?:https?:)?//""", re.IGNORECASE)
Place = tuple[str, int, int, str, int]
"""Method, rewind, level, metric and replicate."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page, made of the committed records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTH_RESULTS", str(RESULTS))
        patch.setenv("LTH_STORE", str(PROJECT / "no-runs"))
        patch.setattr(explorer, "FOLDER", tmp_path_factory.mktemp("_static") / "explorer")
        explorer.write()
        return Path(explorer.FOLDER)


@pytest.fixture(scope="module")
def known(written: Path) -> dict[str, Any]:
    """What data.js sets."""
    found = re.fullmatch(r"window\.EXPLORER = (\{.*\});\n", (written / "data.js").read_text())
    assert found is not None
    read: dict[str, Any] = json.loads(found[1])
    return read


def of_files(study: str, metrics: set[str]) -> tuple[dict[Place, float], dict[Place, float]]:
    """Means over data orders, and percentages of weights that remain, read from a study's CSV file alone."""
    values, percents = defaultdict(list), {}
    with (RESULTS / study / "records.csv").open() as file:
        for row in csv.DictReader(file):
            if row["metric"] in metrics:
                numbers = (int(row["rewind"]), int(row["level"]), row["metric"], int(row["replicate"]))
                values[row["method"], *numbers].append(float(row["value"]))
                percents[row["method"], *numbers] = 100 * float(row["density"])
    return {place: sum(each) / len(each) for place, each in values.items()}, percents


def test_the_data_are_the_records(known: dict[str, Any]) -> None:
    metrics = {metric for panel in known["panels"].values() for metric in panel}
    assert {study["name"] for study in known["studies"]} == {file.parent.name for file in RESULTS.glob("*/records.csv")}
    for study in known["studies"]:
        assert study["name"].startswith(f"{study['network']}-{study['recipe']}-{study['scale']}-")
        shown, percents = {}, {}
        for row in study["rows"]:
            for replicate, value in zip(row["replicates"], row["values"], strict=True):
                place = (row["method"], row["k"], row["level"], row["metric"], replicate)
                assert place not in shown
                shown[place], percents[place] = value, row["percent"]
        values, expected = of_files(study["name"], metrics)
        assert shown == pytest.approx(values, rel=1e-6)
        assert percents == pytest.approx(expected, rel=1e-3)


def test_a_value_names_the_device_that_trained_it(known: dict[str, Any]) -> None:
    for study in known["studies"]:
        devices = defaultdict(set)
        with (RESULTS / study["name"] / "provenance.csv").open() as file:
            for row in csv.DictReader(file):
                if not row["order"].endswith("again"):
                    place = (row["method"], int(row["rewind"]), int(row["level"]), int(row["replicate"]))
                    devices[place].add(row["device"])
        for row in study["rows"]:
            if row["metric"] == "test_accuracy":
                for replicate in row["replicates"]:
                    known_by = devices[row["method"], row["k"], row["level"], replicate]
                    assert row["device"] == " and ".join(sorted(known_by))


def test_a_choice_of_network_recipe_scale_and_data_is_one_study(known: dict[str, Any]) -> None:
    for data in ("data", "images"):
        keys = [tuple(study[name] for name in ("network", "recipe", "scale", data)) for study in known["studies"]]
        assert len(set(keys)) == len(keys)


def test_the_data_are_small(written: Path) -> None:
    assert len(gzip.compress((written / "data.js").read_bytes())) < 250_000
    assert (written / "vega.js").stat().st_size < 1_000_000


def test_the_command_of_a_study_is_about_this_study(known: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTH_RESULTS", str(RESULTS))
    monkeypatch.setenv("LTH_STORE", str(PROJECT / "no-runs"))
    for study in known["studies"]:
        program, run, *options = shlex.split(study["command"])
        assert (program, run) == ("lth", "run")
        k = ",".join(map(str, study["first"]["k"])) or "0"  # of some studies only dense networks are recorded
        options += ["--figure", "accuracy", "--rewinds", k, "--levels", "2", "--replicates", "1,2"]
        found = CliRunner().invoke(app, ["status", *options])
        assert found.exit_code == 0, found.output
        assert found.output.splitlines()[0] == study["name"]


def test_every_figure_of_the_paper_has_a_preset_and_every_preset_shows_both_panels(known: dict[str, Any]) -> None:
    assert list(dict.fromkeys(preset["figure"] for preset in known["presets"])) == list(explorer.FIGURES)
    addresses = [preset["address"] for preset in known["presets"]]
    assert known["start"] in addresses
    assert len(set(addresses)) == len(addresses)
    for preset in known["presets"]:
        state = preset["state"]
        address = {name: texts[0] for name, texts in parse_qs(preset["address"]).items()}
        expected = {name: ",".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in state.items()}
        assert address == expected
        rows = explorer.study_of(known, state)["rows"]
        for panel in ("accuracy", "distance"):
            assert [
                row
                for row in rows
                if row["metric"] == state[panel] and row["method"] == "imp" and row["k"] in state["k"]
                if state["x"] == "percent" or row["level"] == state["level"]
            ], (preset["title"], panel)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("figure", ["Figure 1", "Figure 4", "Figure 8"])
def test_the_chart_of_a_preset_compiles(known: dict[str, Any], figure: str, theme: str) -> None:
    state = next(preset["state"] for preset in known["presets"] if preset["figure"] == figure)
    svg = vl_convert.vegalite_to_svg(explorer.chart(explorer.study_of(known, state), state, theme))
    texts = set(map(html.unescape, re.findall(r"<text[^>]*>([^<]*)</text>", svg)))
    assert {"test accuracy (%)", explorer.AXES[state["x"]]["title"]} <= texts
    assert known["panels"]["distance"][state["distance"]] in texts
    assert any(text.startswith("IMP") for text in texts)
    look = LOOKS["imp rewound" if state["x"] == "k" else "imp"]
    assert f'stroke="{getattr(look, theme)}"' in svg


def test_a_panel_without_values_is_left_out(known: dict[str, Any]) -> None:
    state = known["presets"][0]["state"] | {"method": ["dense"]}
    chart = explorer.chart(explorer.study_of(known, state), state, "light")
    assert [len(panel["layer"]) for panel in chart["concat"]] == [1]
    assert "<svg" in vl_convert.vegalite_to_svg(chart)


def test_a_summary_has_the_mean_and_students_interval() -> None:
    points = [{"series": "a", "x": 10, "value": value} for value in (1.0, 2.0, 3.0)]
    points += [{"series": "a", "x": 20, "value": 5.0}]
    first, second = explorer.summary(points)
    half = 4.302653 / 3**0.5  # the quantile of t with two degrees of freedom, for a standard deviation of 1
    assert (first["x"], first["n"], first["value"]) == (10, 3, 2)
    assert (first["low"], first["high"]) == pytest.approx((2 - half, 2 + half))
    assert second == {"series": "a", "x": 20, "n": 1, "value": 5.0}


def test_looks_are_those_of_figures(known: dict[str, Any]) -> None:
    assert set(explorer.SHAPES) == {look.marker for look in LOOKS.values()}
    for study in known["studies"]:
        for name, look in study["series"].items():
            method, _, k = name.partition(" ")
            kind = max((known for known in LOOKS if method.startswith(known)), key=len)
            kind = "imp rewound" if method == "imp" and k != "0" else kind
            assert (look["light"], look["dark"]) == (LOOKS[kind].light, LOOKS[kind].dark), name
            assert look["shape"] == explorer.SHAPES[LOOKS[kind].marker]


def test_nothing_is_loaded_from_elsewhere(written: Path) -> None:
    for file in (TEMPLATE, SCRIPT, written / "data.js", written / "static.html"):
        assert "http" not in file.read_text(), file.name
        assert "fetch" not in file.read_text(), file.name
    vega = (written / "vega.js").read_text()
    assert vega.startswith("(() => {")
    assert LOADS.findall(vega) == []
    for theme in ("light", "dark"):
        assert set(re.findall(r'\S*="https?:[^"]*"', (written / f"static.{theme}.svg").read_text())) == {
            'xmlns="http://www.w3.org/2000/svg"',
            'xmlns:xlink="http://www.w3.org/1999/xlink"',
        }


def cells(table: str) -> list[list[str]]:
    """The texts of a table's rows."""
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[html.unescape(text) for text in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_without_javascript_a_table_shows_the_records(known: dict[str, Any], written: Path) -> None:
    table = cells((written / "static.html").read_text())
    assert table[0][:3] == ["network", "weights remaining (%)", "test accuracy (%)"]
    state = next(preset["state"] for preset in known["presets"] if preset["address"] == known["start"])
    study = explorer.study_of(known, state)
    values, _ = of_files(study["name"], {"test_accuracy"})
    k = state["k"][-1]
    last = max(level for method, own, level, _, _ in values if method == "imp" and own == k)
    ends = [value for place, value in values.items() if place[:3] == ("imp", k, last)]
    shown = [row for row in table if row[0] == f"IMP, k = {k:,}"][-1]
    assert shown[2].startswith(f"{sum(ends) / len(ends):.2f} (")
    assert shown[2].endswith(f", n = {len(ends)}")


def rows_of(study: dict[str, Any], state: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the file that the page offers for a state."""
    shown = [
        row
        for row in study["rows"]
        if row["metric"] in (state["accuracy"], state["distance"]) and row["method"] in state["method"]
        if row["method"] == "dense"
        or (row["k"] in state["k"] and (state["x"] == "percent" or row["level"] == state["level"]))
    ]
    about = {"network": study["network"], "recipe": study["recipe"], "profile": study["scale"], "data": study["data"]}
    rows = []
    for row in shown:
        place = about | {"method": row["method"], "rewind": str(row["k"]), "level": str(row["level"])}
        place |= {"percent_remaining": f"{row['percent']:g}", "metric": row["metric"]}
        for replicate, value in zip(row["replicates"], row["values"], strict=True):
            own = {"replicate": str(replicate), "value": str(value).removesuffix(".0"), "device": row["device"]}
            rows.append(place | own)
    return rows


NUMBER = r"\d+\.\d\d"
HARNESS = """<pre id="seen"></pre><script>
addEventListener("load", async () => {
  const seen = [];
  for (const [number] of EXPLORER.presets.entries()) {
    const select = document.querySelector("[name=preset]");
    select.value = number;
    select.dispatchEvent(new Event("change", { bubbles: true }));
    await new Promise((done) => setTimeout(done, 50));
    const command = document.getElementById("explorer-command").textContent;
    const csv = await (await fetch(document.getElementById("explorer-csv").href)).text();
    seen.push([document.getElementById("explorer-table").outerHTML, location.hash, select.value, command, csv]);
  }
  const drawn = document.querySelectorAll("#explorer-view svg").length;
  document.body.textContent = "";
  document.body.append(encodeURIComponent(JSON.stringify([drawn, seen])));
});
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_shows_what_python_shows(known: dict[str, Any], written: Path) -> None:
    """In a browser, from a file: the table, the address and the command of every preset."""
    static = written.parent
    blocks = re.findall(r"```\{raw\} html\n(.*?)```", TEMPLATE.read_text(), re.DOTALL)
    body = "".join((written / "static.html").read_text() if block.startswith(":file:") else block for block in blocks)
    (static / "explorer.js").write_text(SCRIPT.read_text())
    page = static / "page.html"
    page.write_text("<!doctype html><body>" + body.replace("../../_static/", "") + HARNESS)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={static / 'profile'}"]
    options += ["--virtual-time-budget=60000", "--dump-dom", page.as_uri()]
    done = subprocess.run(["chromium", *options], capture_output=True, text=True, check=True, timeout=240)
    found = re.search(r"<body>([^<]+)<", done.stdout)
    assert found is not None, done.stdout[-2000:]
    drawn, seen = json.loads(unquote(found[1]))
    assert drawn == 1
    for number, (preset, (table, address, chosen, command, text)) in enumerate(
        zip(known["presets"], seen, strict=True)
    ):
        study = explorer.study_of(known, preset["state"])
        theirs, ours = json.dumps(cells(table)), json.dumps(cells(explorer.static(study, preset["state"])))
        assert re.sub(NUMBER, "", theirs) == re.sub(NUMBER, "", ours), preset["title"]
        values = [list(map(float, re.findall(NUMBER, text))) for text in (theirs, ours)]
        assert values[0] == pytest.approx(values[1], abs=0.011)  # 36.625 is rounded to 36.63 or to 36.62
        assert set(preset["address"].split("&")) <= set(address.removeprefix("#").split("&"))
        assert chosen == str(number)
        assert command.startswith(study["command"])
        assert sorted(csv.DictReader(text.splitlines()), key=str) == sorted(rows_of(study, preset["state"]), key=str)
