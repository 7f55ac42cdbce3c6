"""The chapters: their numbers come from records, and what they ask for must exist. `test_prose` reads their prose."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import build
import numpy as np
import pages
import pandas as pd
import pytest
from conftest import PROJECT
from scipy import stats

from lth_study.report.claim_tables import SIGNS

EVIDENCE = PROJECT / "book" / "evidence"
CALLS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
NAMES = re.compile(
    r"ResNet-(?:20|50)|VGG-19|LeNet-300-100|CIFAR-10|Inception-v3|Figures? \d+(?:(?:,| and| to) \d+)*|\$k = 0\$"
)
"""Names that have digits, and are no results."""


@pytest.fixture(scope="module")
def made() -> Any:
    """The functions of templates, on the committed records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTH_RESULTS", str(PROJECT / "results"))
        patch.setenv("LTH_STORE", str(PROJECT / "no-runs"))
        return pages.Book()


@pytest.fixture
def book(made: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, where they find these records."""
    monkeypatch.setenv("LTH_RESULTS", str(PROJECT / "results"))
    monkeypatch.setenv("LTH_STORE", str(PROJECT / "no-runs"))
    made.shown.clear()  # figures are numbered
    return made


def prose(text: str) -> str:
    """A template without calls, code, links' targets, tags and the lines of lists and tables."""
    text = re.sub(r"```.*?```", "", CALLS.sub("", text), flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|<[^>]*>|\{[\w:]+\}|\]\([^)]*\)", "", text)
    return NAMES.sub("", text)


templates = pytest.mark.parametrize("template", sorted(EVIDENCE.glob("*.md")), ids=lambda path: path.stem)


@templates
def test_no_result_is_typed(template: Path) -> None:
    typed = [line for line in prose(template.read_text()).splitlines() if re.search(r"\d", re.sub(r"^\d\. ", "", line))]
    forbidden = [line for line in typed if not re.fullmatch(r"Brackets hold .* confidence of 95%\..*", line.strip())]
    assert forbidden == []


@templates
def test_a_question_has_its_answer_in_fifty_words_before_the_first_figure(template: Path) -> None:
    if template.stem == "index":
        pytest.skip("the first page has three findings in place of an answer")
    before = template.read_text().partition("{{ figure(")[0].partition("{{ questions(")[0]
    answers = [line for line in before.splitlines() if line.startswith("**")]
    assert len(answers) == 1
    assert len(answers[0].split()) <= 50


def test_a_claim_gives_its_effect_and_its_verdict_with_a_link(book: Any) -> None:
    name = "lenet_300_100-standard-paper-initialisation-better-than-random"
    row = book.judged.loc[name]
    assert book.here(name) == row["here"]
    assert book.paper(name) == row["paper"] == "+0.8"
    chip = book.verdict(name)
    assert f'href="../executed/claims.html#{name}"' in chip
    assert f"{row['verdict']}</a>" in chip


def test_a_verdict_says_whether_it_is_exploratory_and_whether_it_stands(book: Any) -> None:
    claim = book.judged.loc["lenet_300_100-standard-paper-initialisation-better-than-random"].copy()
    shown = {}
    for exploratory, q in ((False, 0.01), (True, 0.01), (False, 0.06)):
        claim["exploratory"], claim["q"], claim["verdict"] = exploratory, q, "supported"
        shown[exploratory, q] = re.findall(r">([^<]+)</a>", book._chip(claim) + book._chip(claim, sign=True))
    assert shown == {
        (False, 0.01): ["✓ supported", "✓"],
        (True, 0.01): ["✓° supported", "✓°"],
        (False, 0.06): ["(✓ supported)", "(✓)"],
    }


def test_a_sentence_that_the_records_no_longer_bear_out_stops_the_build(book: Any) -> None:
    name = "lenet_300_100-standard-paper-initialisation-better-than-random"
    assert book.says("supported", name) == ""
    with pytest.raises(LookupError, match=f"a page says undecided, and the records do not: {name}: supported"):
        book.says("undecided", name)


def test_a_claim_that_waits_is_judged_early_by_its_own_test(book: Any) -> None:
    """Student's t test of the slopes, from the CSV files alone."""
    (file,) = (PROJECT / "results").glob("resnet20-standard-paper-cifar10_jpeg-*/records.csv")
    rows = pd.read_csv(file)
    rows = rows[(rows["metric"] == "test_accuracy") & (rows["method"] == "imp") & (rows["rewind"] == 0)]
    each = rows.pivot_table(index="level", columns="replicate", values="value").loc[1:6]
    slopes = [np.polyfit(each.index, each[replicate], 1)[0] for replicate in each]
    falls = stats.ttest_1samp(slopes, 0).pvalue < 0.05 and np.mean(slopes) < 0
    name = "resnet20-standard-paper-initialisation-falls"
    chip = book.early("supported" if falls else "undecided", name, range(1, 7))
    assert f"Seen: {np.mean(slopes):.2f} (" in chip
    assert f'href="../executed/claims.html#{name}"' in chip
    assert f">{SIGNS['supported' if falls else 'undecided']}° " in chip
    with pytest.raises(LookupError, match=f"a page says contradicted, and the records do not: {name}: "):
        book.early("contradicted", name, range(1, 7))
    with pytest.raises(LookupError, match="is supported by its own records; write verdict"):
        book.early("supported", "lenet_300_100-standard-paper-initialisation-matches", range(1, 7))


@templates
def test_a_table_of_claims_has_the_scale_in_its_second_column(template: Path) -> None:
    lines = template.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|--"):
            rows = list(itertools.takewhile(lambda each: each.startswith("|"), lines[number + 1 :]))
            for row in rows:
                names = re.findall(r'(?:verdict|early)\((?:"\w+", )?"([\w-]+)"', row)
                scales = {re.search("-(paper|laptop|tenth)-", name)[1] for name in names}  # type: ignore[index]
                assert len(scales) <= 1, row
                if names:
                    assert lines[number - 1].split("|")[2].strip() == "scale"
                    assert re.search(rf'scale\("[\w-]+-{scales.pop()}-', row.split(" | ")[1]), row


def test_claims_of_the_paper_are_counted_apart_on_the_first_page() -> None:
    text = (EVIDENCE / "index.md").read_text()
    counted = re.findall(r"count\(([^)]*)\)", text)
    assert counted.count("") == 1  # all of them, as a number of the study
    assert all('about="paper"' in where for where in counted if where)


@templates
def test_what_an_answer_says_is_held_against_the_records(template: Path) -> None:
    if template.stem != "explorer":
        assert "{{ says(" in template.read_text()


def test_what_does_not_exist_is_an_error(book: Any) -> None:
    with pytest.raises(LookupError, match=r"no claim 'nothing' in results/claims\.csv"):
        book.here("nothing")
    with pytest.raises(LookupError, match=r"imp@7 of resnet20-standard-laptop-.* at \[8\] is not recorded"):
        book.effect("resnet20", "laptop", "imp@7", [8], dataset="cifar10")
    with pytest.raises(LookupError, match="no claim matches 'nothing'"):
        book.questions({"why": ("who", "nothing")})
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        book.figure("nothing", "a finding")


def test_an_effect_is_the_mean_over_replicates_of_the_records(book: Any) -> None:
    """Recomputed from the CSV files alone."""
    (file,) = (PROJECT / "results").glob("resnet20-standard-laptop-cifar10-*/records.csv")
    rows = pd.read_csv(file)
    rows = rows[(rows["metric"] == "test_accuracy") & (rows["level"].isin([0, 8]))]
    each = rows.groupby(["method", "rewind", "replicate"])["value"].mean()
    gap = each["imp"][25] - each["dense"][0]
    assert book.effect("resnet20", "laptop", "imp@25 - dense", [8], dataset="cifar10").startswith(
        f"{gap.mean():+.2f} ("
    )
    assert book.effect("resnet20", "laptop", "imp@25", [8], dataset="cifar10").startswith(
        f"{each['imp'][25].mean():.2f} ("
    )


def test_the_matrix_has_a_sign_and_a_link_in_every_cell_that_was_claimed(book: Any) -> None:
    rows = re.findall(r'<tr><th scope="row".*?</tr>', book.matrix())
    assert any("ResNet-20<" in row and ">paper<" in row for row in rows)
    for row in rows:
        cells = re.findall(r"<td.*?</td>", row)
        assert len(cells) == 1 + len(pages.MATRIX)
        assert all("href" in cell or cell == "<td></td>" for cell in cells[1:])
        assert any("href" in cell for cell in cells[1:])
    for name, sign in re.findall(r'claims\.html#([\w-]+)"[^>]*>([^<]+)</a>', book.matrix()):
        assert SIGNS[book.judged.loc[name, "verdict"]] in sign


def test_counts_are_those_of_the_table(book: Any) -> None:
    table = book.judged
    assert book.count() == len(table)
    assert (
        book.count(about="paper", verdict="not run") == ((table.about == "paper") & (table.verdict == "not run")).sum()
    )


def test_a_figure_tells_the_verdicts_of_the_claims_that_its_studies_decide(
    book: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "FIGURES", tmp_path)
    studies = {name: [pages.preset(name, profile="paper").setting.name] for name in ("lenet_300_100", "resnet50")}
    for name, decided in {**studies, "measured": None}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"alt": "kept"} | ({"studies": decided} if decided else {})))
    pages.tell_verdicts(book.judged.reset_index(drop=True))
    told = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    rows = book.judged[(book.judged["network"] == "lenet_300_100") & (book.judged["recorded_on"] == "mnist")]
    decided = rows[rows["verdict"] != "not run"]["verdict"].to_dict()
    assert len(decided) > 5
    assert told["lenet_300_100"] == {"alt": "kept", "studies": studies["lenet_300_100"], "verdicts": decided}
    assert told["resnet50"]["verdicts"] == told["measured"]["verdicts"] == {}  # nothing is recorded at that scale


def test_a_figure_has_its_pictures_numbers_scale_and_command(
    book: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "FIGURES", tmp_path)
    about = {
        "alt": "What is drawn.", "caption": "A caption.", "profiles": ["paper"], "replicates": 3, "devices": ["a GPU"],
        "trainings": 1200, "hours": {"NVIDIA X": 2.04, "Xeon (AVX512)": 7.0}, "page": "a_page",
        "command": "papermill notebooks/a.ipynb b.ipynb",
        "studies": ["resnet20-standard-paper-cifar10-0123"], "axis": "k",
        "drawn": ["test accuracy (%)", "L2 between data orders", "L2 to the dense network"],
    }  # fmt: skip
    (tmp_path / "a_page-curves.json").write_text(json.dumps(about))
    text = book.figure("a_page-curves", "What was found.")
    for part in (
        "{figure} ../_static/figures/a_page-curves.light.svg", ":alt: What is drawn.", "What was found.", "A caption.",
        'src="../../_static/figures/a_page-curves.dark.narrow.svg"', "the paper's scale",
        'href="../../_static/figures/a_page-curves.csv"',
        'href="../executed/a_page.html"',
        "1,200 trainings: 2.0 hours on one NVIDIA X and 7.0 hours on one core of Xeon (AVX512)",
        about["command"], "3 replicates",
        'href="explorer.html?study=resnet20-standard-paper-cifar10-0123&amp;x=k&amp;distance=l2_data_order"',
    ):  # fmt: skip
        assert part in text
    assert text.count('alt="What is drawn."') == 3


def test_figures_are_kept_under_the_name_of_their_page_with_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    part = build.FIGURES_PART / "vgg19_accuracy"
    part.mkdir(parents=True)
    (part / "curves.json").write_text('{"title": "Curves"}')
    (part / "curves.csv").write_text("x\n1\n")
    build.keep_figures(
        Path("notebooks/accuracy.ipynb"),
        "vgg19_accuracy",
        {"network": "vgg19", "rewinds": [0, 10], "levels": None},
        build.FIGURES,
    )
    about = json.loads((build.FIGURES / "vgg19_accuracy-curves.json").read_text())
    assert about == {
        "title": "Curves",
        "page": "vgg19_accuracy",
        "command": "papermill notebooks/accuracy.ipynb vgg19_accuracy.ipynb "
        '-y "{levels: null, network: vgg19, rewinds: [0, 10]}"',
    }
    assert (build.FIGURES / "vgg19_accuracy-curves.csv").exists()
