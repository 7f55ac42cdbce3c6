"""Tables of where committed records come from: devices, versions, dates, seconds, settings (`provenance.ipynb`)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lth_study.records import no_results, results_folder, studies
from lth_study.settings import Setting
from lth_study.tables import read


def recorded_studies(study: str = "") -> list[Setting]:
    """The committed studies whose names contain `study`. Raises `ValueError`, listing all studies, if none does."""
    settings = studies(results_folder())
    chosen = [setting for setting in settings if str(study) in setting.name]  # part of a digest may read as a number
    if not chosen:
        raise ValueError(
            f"{no_results()}no recorded study has {study!r} in its name; recorded: "
            f"{', '.join(c.name for c in settings) or 'none'}"
        )
    return chosen


def provenance_summary(settings: Sequence[Setting]) -> pd.DataFrame:
    """A row for each study, device, versions, images and number of workers (empty if not recorded). It has the number
    of trainings, their hours, their median seconds, and the first and last date."""
    tables = []
    for setting in settings:
        by = ["device", "torch", "python", "data_fingerprint", "workers"]
        made = read(results_folder(), setting)[1].groupby(by, dropna=False)
        table = made.agg(
            trainings=("seconds", "size"),
            hours=("seconds", lambda seconds: round(seconds.sum() / 3600, 2)),
            seconds_each=("seconds", lambda seconds: round(seconds.median(), 1)),
            first=("finished", "min"),
            last=("finished", "max"),
        )
        tables.append(table.reset_index().assign(study=setting.name))
    rows = pd.concat(tables).astype({"workers": object}).fillna({"workers": ""})
    dates = {name: rows[name].str[:10] for name in ("first", "last")}
    return rows.assign(**dates).set_index("study")


def settings_table(settings: Sequence[Setting]) -> pd.DataFrame:
    """The settings that determine each study's trainings. Each study has a column, named by its digest."""
    return pd.DataFrame({setting.digest(): setting.determining() for setting in settings}).fillna("")
