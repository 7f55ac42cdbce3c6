"""Writes the chapters that show results: `book/evidence/*.md` are their templates, `book/pages/*.md` what is built.

A template is Markdown with Jinja's `{{ ... }}`. Its numbers, figures and verdicts come from the records:

    {{ here("CLAIM") }}         effect of a claim of results/claims.csv with its interval
    {{ paper("CLAIM") }}        the paper's number for it
    {{ verdict("CLAIM") }}      its verdict, linked to its row
    {{ scale("CLAIM") }}        its scale
    {{ says("VERDICT", "CLAIM", ...) }}     nothing: it stops the build where the sentence beside it is no longer true
    {{ effect(...) }}           another effect, as claims write it
    {{ early("VERDICT", "CLAIM", levels) }} the verdict on a claim that waits for its records, by JPEG images' records
    {{ figure("PAGE-NAME", "finding") }}    a figure that a notebook published
    {{ matrix() }}, {{ questions() }}, {{ contradicted() }}     verdicts as tables
    {{ cost("NETWORK", "FIGURE") }}         trainings and hours, at the paper's scale or another profile's
    {{ count(...) }}, {{ trainings() }}     numbers of claims and of recorded trainings
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
import pandas as pd

from lth_core import __version__
from lth_study import plan, preset, records
from lth_study.costs.hours import hours_to_train
from lth_study.data import title
from lth_study.report import METRIC_NAMES, NETWORK_NAMES, claims, effects
from lth_study.report.claim_tables import SIGNS
from lth_study.settings import RECORDS_ONLY
from lth_study.tickets import CITATION

EVIDENCE = Path("book/evidence")
PAGES = Path("book/pages")
FIGURES = Path("book/_static/figures")
TO_FIGURES, TO_BUILT = "../_static/figures", "../../_static/figures"
"""From a page to the figures: in the sources, and in the built book."""
CLAIMS = "../executed/claims.html"

MATRIX = {
    "tickets at k = 0 fall short": ("initialisation-falls", "initialisation-fails"),
    "tickets at k = 0 match": ("initialisation-matches",),
    "rewound ones match": ("rewound-holds", "rewound-matches"),
    "rewound beat reset": ("rewound-holds-better", "rewound-better"),
    "rewinding adds accuracy": ("gain-over-random",),
    "stabler to data order": ("rewinding-stabilises-to-data-order", "initialisation-more-stable-to-data-order"),
    "stabler to pruning": ("rewinding-stabilises-to-pruning", "initialisation-more-stable-to-pruning"),
}
"""Column of the matrix -> the ends of the names of its claims. The first that was run is shown; of LeNet, whose tickets
need no rewinding, the last."""


MARKS = (
    "A circle: exploratory, since a training is older than the claim or the images are JPEG. "
    "In brackets: it does not stand after the correction for many claims."
)
"""What the marks of a verdict mean."""


def write_pages() -> None:
    """Render every template, and write what the page "How to cite" shows."""
    PAGES.mkdir(exist_ok=True)
    (PAGES / "citation.bib").write_text(f"{CITATION % __version__}\n")
    for old in PAGES.glob("*.md"):
        old.unlink()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(EVIDENCE), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    book = Book()
    environment.globals.update(book.functions())
    tell_verdicts(book.judged)
    for template in sorted(EVIDENCE.glob("*.md")):
        (PAGES / template.name).write_text(environment.get_template(template.name).render())


def tell_verdicts(judged: pd.DataFrame) -> None:
    """Write into the JSON file of every figure the verdicts of the claims that its studies decide."""
    verdicts: dict[str, dict[str, str]] = {}
    found = judged.set_index("claim")
    for claim in claims.read():
        row = found.loc[claim.claim]
        if row["verdict"] != "not run":
            study = claim.setting(str(row["recorded_on"]), {}).name
            verdicts.setdefault(study, {})[claim.claim] = str(row["verdict"])
    for file in FIGURES.glob("*.json"):
        about = json.loads(file.read_text())
        decided = [verdicts.get(study, {}) for study in about.get("studies", [])]
        about["verdicts"] = {name: verdict for each in decided for name, verdict in each.items()}
        file.write_text(json.dumps(about, indent=1))


def pictures(name: str, alt: str) -> list[str]:
    """The pictures of a figure, for both themes and two widths; `book.css` shows one of them."""
    text = html.escape(alt, quote=True)
    return [
        f'<img class="picture {theme} {width} dark-light" src="{TO_BUILT}/{name}.{theme}{end}.svg" alt="{text}" '
        'loading="lazy">'
        for theme in ("light", "dark")
        for width, end in (("wide", ""), ("narrow", ".narrow"))
    ]


def downloads(name: str) -> list[str]:
    """Links to a figure and to its numbers."""
    return [
        f'<a href="{TO_BUILT}/{name}.light.svg" download>SVG</a>',
        f'<a href="{TO_BUILT}/{name}.csv" download>CSV</a>',
    ]


def published() -> dict[tuple[str, str], str]:
    """What a notebook's page shows of every figure, by the page and the checksum of its picture in the notebook."""
    shown = {}
    for file in FIGURES.glob("*.json"):
        about, name = json.loads(file.read_text()), file.stem
        links = f"<p>{' · '.join(downloads(name))}</p>"
        shown[about["page"], about["png"]] = (
            f'<div class="pictures">{"".join(pictures(name, about["alt"]))}{links}</div>'
        )
    return shown


class Book:
    """What templates call."""

    def __init__(self) -> None:
        self.judged = claims.judged().set_index("claim", drop=False)
        self.judged["exploratory"] = self.judged["note"].str.contains("exploratory")
        self.shown: list[str] = []

    def functions(self) -> dict[str, Any]:
        numbers = ("here", "paper", "effect", "count", "cost", "trainings")
        names = (*numbers, "verdict", "scale", "says", "early", "figure", "matrix", "questions", "contradicted")
        return {name: getattr(self, name) for name in names}

    def _claim(self, name: str) -> Any:
        if name not in self.judged.index:
            raise LookupError(f"no claim {name!r} in results/claims.csv")
        return self.judged.loc[name]

    def here(self, name: str) -> str:
        """The effect of a claim with its interval, or that it was not run."""
        claim = self._claim(name)
        return str(claim["here"]) or "not run"

    def paper(self, name: str) -> str:
        """The paper's number for a claim."""
        return str(self._claim(name)["paper"])

    def verdict(self, name: str) -> str:
        """The verdict of a claim, linked to its row on the page of claims."""
        return self._chip(self._claim(name))

    def says(self, verdict: str, *names: str) -> str:
        """Nothing, where all these claims have this verdict: the sentence beside it says so. An error otherwise."""
        if wrong := [f"{name}: {found}" for name in names if (found := self._claim(name)["verdict"]) != verdict]:
            raise LookupError(f"a page says {verdict}, and the records do not: {'; '.join(wrong)}; write it anew")
        return ""

    def scale(self, name: str) -> str:
        """The scale of a claim, as a badge."""
        profile = str(self._claim(name)["profile"])
        return _badge(profile, profile)

    def early(self, verdict: str, name: str, levels: Sequence[int]) -> str:
        """The verdict by a claim's own test on the JPEG images of CIFAR-10, over fewer levels. Exploratory.

        An error where it is another one than the page says, or where the claim itself can be judged.
        """
        claim = self._claim(name)
        if claim["verdict"] != "not run":
            raise LookupError(f"{name} is {claim['verdict']} by its own records; write verdict({name!r}) instead")
        own = dict(pair.split("=") for pair in claim["settings"].split())
        values = self._sample(claim, claim["effect"], levels, own | {"dataset": "cifar10_jpeg"})
        bounds = {side: None if pd.isna(claim[side]) else float(claim[side]) for side in ("low", "high")}
        found, _, shown = effects.judge(values, claim["test"], **bounds)
        if found != verdict:
            raise LookupError(f"a page says {verdict}, and the records do not: {name}: {found}; write it anew")
        note = f"exploratory: JPEG images, and levels {levels[0]} to {levels[-1]}"
        return self._chip(
            dict(claim) | {"verdict": found, "note": note, "exploratory": True, "here": shown, "q": math.nan}
        )

    def _sample(self, where: Any, what: str, levels: Sequence[int], changes: Mapping[str, Any]) -> pd.Series:
        """An effect on accuracy in every replicate of the study that is changed this way."""
        setting = preset(where["network"], where["recipe"], where["profile"]).setting.updated(**changes)
        table = effects.placed(records.traced(setting))
        values = effects.sample(lambda _: table, what, "test_accuracy", levels).values
        if len(values) < 2:
            raise LookupError(f"{what} of {setting.name} at {list(levels)} is not recorded")
        return values

    def _chip(self, claim: Any, sign: bool = False) -> str:
        """The verdict of a claim as a link to its row: sign and word, or the sign alone.

        A circle marks an exploratory verdict. One in brackets does not stand after the correction for many claims.
        """
        kind = claim["verdict"]
        mark = SIGNS[kind] + ("°" if claim["exploratory"] else "")
        falls = kind in ("supported", "contradicted") and claim["q"] >= effects.SIGNIFICANCE
        shown = mark if sign else f"{mark} {kind}"
        about = [
            kind,
            *(["exploratory"] if claim["exploratory"] else []),
            *([f"q = {claim['q']:.2f}"] if falls else []),
        ]
        text = f"{', '.join(about)}: {claim['text']}. Seen: {claim['here'] or 'no record'}"
        title = html.escape(text, quote=True)
        label = f' aria-label="{title}"' if sign else ""
        target = f"{CLAIMS}#{claim['claim']}"
        return (
            f'<a class="verdict {kind.replace(" ", "-")}" href="{target}" title="{title}"{label}>'
            f"{f'({shown})' if falls else shown}</a>"
        )

    def effect(self, network: str, profile: str, what: str, levels: Sequence[int], **changes: Any) -> str:
        """An effect on accuracy, as claims write it, or its slope over several levels; with its 95% interval."""
        where = {"network": network, "recipe": "standard", "profile": profile}
        found = effects.estimate(self._sample(where, what, levels, changes))
        return str(found) if "-" in what or len(levels) > 1 else str(found).replace("+", "")

    def count(self, **where: str | bool) -> int:
        """The number of claims with these values of columns: `count(about="paper", verdict="supported")`."""
        table = self.judged
        for column, value in where.items():
            table = table[table[column] == value]
        return len(table)

    def contradicted(self) -> str:
        """A table of the paper's claims that the records contradict."""
        table = self.judged[(self.judged["about"] == "paper") & (self.judged["verdict"] == "contradicted")]
        rows = [
            f"| {NETWORK_NAMES[claim['network']]}, {claim['recipe']} | {self.scale(name)} | {claim['text']} | "
            f"{claim['here']} | {self._chip(claim)} |"
            for name, claim in table.iterrows()
        ]
        return "\n".join(["| network, recipe | scale | claim | seen here | verdict |", "|---|---|---|---|---|", *rows])

    def cost(self, network: str, *figures: str, profile: str = "paper", **changes: Any) -> str:
        """The trainings of a study, and the hours that they take by recorded speeds."""
        study = preset(network, profile=profile).updated(**changes)
        parts = [study.only(figure) for figure in figures] or [study]
        return " and ".join(_cost(len(plan.trainings(part)), hours_to_train(part)) for part in parts)

    def trainings(self) -> str:
        """The number of recorded trainings."""
        return f"{sum(len(pd.read_csv(file)) for file in records.results_folder().glob('*/provenance.csv')):,}"

    def figure(self, name: str, finding: str) -> str:
        """A numbered figure for both themes and two widths, with its scale, sources, cost and command."""
        about = json.loads((FIGURES / f"{name}.json").read_text())
        label = "" if name in self.shown else f":name: fig-{name}\n"
        self.shown.append(name)
        _, *others = pictures(name, about["alt"])  # Sphinx makes the first one
        scale = ", ".join(about["profiles"])
        badge = "the paper's scale" if scale == "paper" else f"scale: {scale}"
        cost = _cost(about["trainings"], about["hours"])
        again = f"To train everything again means {cost}."
        if any(f"-{RECORDS_ONLY}-" in study for study in about["studies"]):
            again = f"Some of its images are no longer read. By recorded speeds it took {cost}."
        studies = about["studies"] if len(about["studies"]) == 1 else []  # the explorer shows one study at a time
        metrics = {title: metric for metric, title in METRIC_NAMES.items() if metric != "test_accuracy"}
        view = {"x": "k" if about["axis"] == "k" else "percent"}
        if distances := [metrics[title] for title in about["drawn"] if title in metrics]:
            view["distance"] = distances[0]
        sources = [
            _badge(scale, badge),
            f"{about['replicates']} replicates",
            html.escape(", ".join(about["devices"])),
            *downloads(name),
            f'<a href="../executed/{about["page"]}.html">notebook</a>',
            *(
                f'<a href="explorer.html?{html.escape(urlencode({"study": study} | view))}">explorer</a>'
                for study in studies
            ),
        ]
        return f"""
```{{figure}} {TO_FIGURES}/{name}.light.svg
{label}:class: picture light wide dark-light
:alt: {about["alt"]}

{finding}

<div class="pictures">
{chr(10).join(others)}
</div>

<p>{" · ".join(sources)}</p>

{about["caption"]}
```

:::{{dropdown}} Draw it again, or with other parameters
Reading the records takes seconds. {again}
[Run it yourself](../rerun.md) has the parameters.

```bash
{about["command"]}
```
:::
"""

    def matrix(self) -> str:
        """The paper's main claims by network and scale, with the standard recipe: a sign in every cell."""
        rows = []
        for network, name in NETWORK_NAMES.items():
            for profile in ("paper", "laptop"):
                cells = [self._cell(f"{network}-standard-{profile}", ends) for ends in MATRIX.values()]
                if any("href" in cell for cell in cells):
                    badge = _badge(profile, profile)
                    rows.append(f'<tr><th scope="row">{name}</th><td>{badge}</td>{"".join(cells)}</tr>')
        head = "".join(f'<th scope="col">{what}</th>' for what in ("network", "scale", *MATRIX))
        body = "\n".join(rows)
        signs = ", ".join(f"{sign} {verdict}" for verdict, sign in SIGNS.items())
        return (
            f'<p class="legend"><strong>Claims at a glance:</strong> {signs}, ° exploratory</p>\n'
            '<div class="matrix" tabindex="0" role="region" aria-label="Verdicts by network and scale">'
            f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n\n"
            f"{MARKS} An empty cell: no claim is fixed there. The last three columns of ImageNet's networks are this "
            "study's own questions.\n"
        )

    def _cell(self, place: str, ends: Sequence[str]) -> str:
        ends = ends[::-1] if place.startswith("lenet") else ends
        known = [self.judged.loc[name] for end in ends if (name := f"{place}-{end}") in self.judged.index]
        if not known:
            return "<td></td>"
        return f"<td>{self._chip(next((c for c in known if c['verdict'] != 'not run'), known[0]), sign=True)}</td>"

    def questions(self, asked: dict[str, tuple[str, str]]) -> str:
        """A table of questions: who asked, and the verdicts of the claims whose names match, by network and scale.

        `asked` maps a question to who asked it and to a regular expression of claims.
        """
        rows = []
        for question, (who, pattern) in asked.items():
            table = self.judged[self.judged["claim"].str.fullmatch(pattern)]
            if not len(table):
                raise LookupError(f"no claim matches {pattern!r}")
            run = table[table["verdict"] != "not run"]
            lines = []
            for (network, profile, images), here in run.groupby(["network", "profile", "recorded_on"], sort=False):
                found = " ".join(self._chip(claim) for _, claim in here.iterrows())
                lines.append(f"{NETWORK_NAMES[str(network)]} ({profile}, {title(str(images))}): {found}")
            waiting = len(table) - len(run)
            lines += [f"{waiting} not run yet"] if waiting else []
            rows.append(f"| {question} | {who} | {'<br>'.join(lines)} |")
        return "\n".join(["| question | who asked | seen here |", "|---|---|---|", *rows, "", MARKS])


def _cost(trainings: int, hours: Mapping[str, float]) -> str:
    one = {device: "one " if device.startswith("NVIDIA") else "one core of " for device in hours}
    taken = " and ".join(f"{each:.1f} hours on {one[device]}{device}" for device, each in hours.items())
    return f"{trainings:,} trainings: {taken}" if taken else f"{trainings:,} trainings"


def _badge(scale: str, text: str) -> str:
    return f'<span class="badge{" paper" if scale == "paper" else ""}">{text}</span>'


def readme_results() -> str:
    """The table of README.md: the three main findings."""
    book = Book()
    where: dict[str, Any] = {"dataset": RECORDS_ONLY, "precision": "bfloat16"}
    paper = f"the paper's, {title(RECORDS_ONLY)}"
    reset, rewound = (book.effect("resnet20", "paper", f"imp@{k}", range(1, 7), **where) for k in (0, 500))
    stable = "vgg19-standard-laptop-rewinding-stabilises-to-data-order"
    claim = book.judged.loc[stable]
    verdict = claim["verdict"] + (", exploratory" if claim["exploratory"] else "")
    gained = "accuracy gained from pruning to pruning"
    what = "VGG-19: what rewinding adds in stability to data order, beyond random subnetworks"
    rows = [
        (f"ResNet-20, reset: {gained}", f"{reset} points", paper),
        (f"ResNet-20, rewound: {gained}", f"{rewound} points", paper),
        (what, f"{book.here(stable)} times, {verdict}", f"laptop, {title(claim['recorded_on'])}"),
    ]
    table = ["| what | seen here | scale |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(table) + "\n"
