"""Judges the claims, fixed beforehand in `results/claims.csv`, by the records.

A row is one claim in one measure. `test` says how it is judged, at 5%, over replicates:

- superior: the 95% interval of the mean lies beyond the one bound that is given, `low` or `high`;
- not inferior: the mean is above `low`, by a one-sided test (the 90% interval lies above it);
- equivalent: the mean lies between `low` and `high`, by two one-sided tests (the 90% interval lies between them);
- signs: more replicates lie beyond the bound than chance would put there, by the binomial test. This test is for
  samples with two humps: their mean says nothing.

A claim with a `control` cannot fail if the control passes the same test in the tickets' place. A note says where the
control is not recorded. `effects` computes what is tested. Notebooks show verdicts through `claim_tables`; `agenda`
asks what a claim needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from scipy import stats

from lth_study import records
from lth_study.data import title
from lth_study.presets import preset
from lth_study.report import METRIC_NAMES
from lth_study.report.effects import (
    DISTANCES,
    SIGNIFICANCE,
    Place,
    Sample,
    judge,
    parse,
    placed,
    sample,
)
from lth_study.settings import RECORDS_ONLY, Setting, SettingError

TESTS = ("superior", "not inferior", "equivalent", "signs")
_EARLIER = {"cifar10": RECORDS_ONLY}
"""Data set -> an earlier copy of it. As long as it has more of a claim's replicates, it gives exploratory verdicts."""


@dataclass(frozen=True)
class Claim:
    """One row of the table of claims."""

    claim: str
    about: str
    source: str
    network: str
    recipe: str
    profile: str
    dataset: str
    settings: str
    text: str
    measure: str
    effect: str
    levels: str
    test: str
    low: float | None
    high: float | None
    control: str
    replicates: str
    paper: str
    read: str
    fixed: str
    change: str

    @property
    def at(self) -> Sequence[int]:
        """The level of the claim, or all levels of a slope."""
        first, _, last = self.levels.partition("-")
        return range(int(first), int(last or first) + 1)

    def setting(self, dataset: str, changes: Mapping[str, Any]) -> Setting:
        """The setting whose records decide the claim."""
        own = dict(pair.split("=") for pair in self.settings.split())
        standard = preset(self.network, self.recipe, self.profile).setting
        return standard.updated(**{"dataset": dataset} | own | dict(changes))


@dataclass(frozen=True)
class Finding:
    """The result for a claim in one measure: verdict, p-value of that decision, effect as text (`shown`), number of
    replicates, data set, notes."""

    verdict: str
    p: float = math.nan
    shown: str = ""
    replicates: int = 0
    dataset: str = ""
    notes: tuple[str, ...] = ()


def read() -> list[Claim]:
    """The table of claims. Raises `ValueError` for a claim that cannot be judged, naming the line of a wrong test."""
    table = pd.read_csv(records.results_file("claims.csv"), dtype=str, keep_default_na=False)
    claims = []
    for line, row in enumerate(table.to_dict("records"), start=2):
        bounds = {name: float(row[name]) if row[name] else None for name in ("low", "high")}
        claim = Claim(**{str(name): value for name, value in (row | bounds).items()})
        given = sum(bound is not None for bound in bounds.values())
        if claim.test not in TESTS or given != (2 if claim.test == "equivalent" else 1):
            raise ValueError(
                f"claims.csv, line {line}: test {claim.test!r} with low={claim.low} and high={claim.high}; expected "
                f"one of {', '.join(TESTS)}, with both bounds for 'equivalent' and one for the others"
            )
        if claim.test == "signs" and stats.binomtest(count := int(claim.replicates), count).pvalue >= SIGNIFICANCE:
            raise ValueError(f"claims.csv, line {line}: {count} replicates never decide by signs; expected 6 or more")
        parse(claim.effect)
        claims.append(claim)
    return claims


def judged(networks: Sequence[str] | None = None, **where: str) -> pd.DataFrame:
    """Every claim with its verdict, a row each; `networks`, and `where` by column, select rows.

    Example: `judged(network="resnet20", profile="laptop")`.

    L2 and angle of one claim are one row: it is decided if both measures have the same verdict. `q` is the p-value
    corrected for all judged claims (Benjamini and Hochberg). A decision stands if q is below 0.05.
    """
    recorded = cache(lambda setting: placed(records.traced(setting)))
    claims = read()
    known = list(dict.fromkeys(claim.network for claim in claims))
    chosen = known if networks is None else networks.split(",") if isinstance(networks, str) else networks
    if not isinstance(chosen, list | tuple) or not chosen or any(network not in known for network in chosen):
        raise SettingError(f"networks: {networks!r} is not a list of networks; expected some of {', '.join(known)}")
    found = [_finding(claim, recorded) for claim in claims]
    names = list(dict.fromkeys(claim.claim for claim in claims))
    rows = []
    for name in names:
        measures = [(claim, finding) for claim, finding in zip(claims, found, strict=True) if claim.claim == name]
        rows.append(vars(measures[0][0]) | _together(measures))
    table = pd.DataFrame(rows)
    tested = table["p"].notna()
    table.loc[tested, "q"] = stats.false_discovery_control(table.loc[tested, "p"])
    table = table[table["network"].isin(chosen)]
    for column, value in where.items():
        table = table[table[column] == value]
    return table.reset_index(drop=True)


def _finding(claim: Claim, recorded: Callable[[Setting], Mapping[Place, pd.DataFrame]]) -> Finding:
    count, usable, notes = int(claim.replicates), list[tuple[str, Sample, Sample | None]](), dict[str, None]()
    for dataset in (claim.dataset, _EARLIER.get(claim.dataset)):
        if dataset is None or (dataset != claim.dataset and "dataset=" in claim.effect):
            break

        def study(changes: Mapping[str, Any], dataset: str = dataset) -> Mapping[Place, pd.DataFrame]:
            return recorded(claim.setting(dataset, changes))

        found = sample(study, claim.effect, claim.measure, claim.at).first(count)
        control = None
        if claim.control:
            instead = claim.effect.replace("imp@", f"{claim.control}@")  # the control in the tickets' place
            control = sample(study, instead, claim.measure, claim.at).first(count)
        notes |= dict.fromkeys(_lacking(found))
        if len(found.values) >= 2:
            usable.append((dataset, found, control))
    if usable:
        return _judged(claim, *max(usable, key=lambda each: len(each[1].values)))  # of two alike, the original
    return Finding("not run", dataset=claim.dataset, notes=tuple(notes))


def _lacking(found: Sample) -> list[str]:
    """Notes on the replicates that have no value."""
    dropped = [f"{found.dropped} dropped: several kinds of processor"] if found.dropped else []
    return dropped + ([f"{found.diverged} diverged"] if found.diverged else [])


def _judged(claim: Claim, dataset: str, found: Sample, control: Sample | None) -> Finding:
    rule, ratio = (claim.test, claim.low, claim.high), claim.measure in DISTANCES
    verdict, p, shown = judge(found.values, *rule, ratio=ratio)
    uncontrolled = control is not None and len(control.values) < 2
    if verdict == "supported" and control is not None and not uncontrolled:
        passes = judge(control.values, *rule, ratio=ratio)[0] == "supported"
        verdict = "cannot fail here" if passes else verdict
    count = len(found.values)
    notes = []
    if dataset != claim.dataset:
        notes.append(f"exploratory: {title(dataset)}")
    elif (found.finished < claim.fixed).any():
        notes.append("exploratory")
    if count < int(claim.replicates):
        notes.append(f"{count} of {claim.replicates} replicates")
    notes += [*_lacking(found), *(["its control is not recorded"] if uncontrolled else [])]
    shown = shown if "-" in claim.effect + claim.levels else shown.replace("+", "")  # no sign: not a change
    return Finding(verdict, p, shown, count, dataset, tuple(notes))


def _together(measures: Sequence[tuple[Claim, Finding]]) -> dict[str, Any]:
    """The columns that combine the measures of one claim."""
    findings = [finding for _, finding in measures]
    several = len(measures) > 1
    verdict, p = _decision(findings)

    def joined(texts: Iterable[tuple[Claim, str]]) -> str:
        return "; ".join(f"{_SHORT[claim.measure]} {text}" if several else text for claim, text in texts if text)

    return {
        "paper": joined((claim, claim.paper) for claim, _ in measures),
        "here": joined((claim, finding.shown) for claim, finding in measures),
        "n": min(finding.replicates for finding in findings),
        "verdict": verdict,
        "p": p,
        "recorded_on": findings[0].dataset,
        "note": "; ".join(dict.fromkeys(note for finding in findings for note in finding.notes)),
    }


def _decision(findings: Sequence[Finding]) -> tuple[str, float]:
    """The verdict of all measures, and its p-value: 1 if they contradict each other, NaN if one was not run."""
    verdicts = {finding.verdict for finding in findings}
    if "not run" in verdicts:
        return "not run", math.nan
    apart = "contradicted" in verdicts and not verdicts.isdisjoint({"supported", "cannot fail here"})
    p = 1.0 if apart else max(finding.p for finding in findings)
    if verdicts == {"supported", "cannot fail here"}:
        return "cannot fail here", p
    return verdicts.pop() if len(verdicts) == 1 else "undecided", p


_SHORT = {name: title.split(" ")[0] for name, title in METRIC_NAMES.items()}
"""Measure -> the word that distinguishes it from the claim's other measure."""
