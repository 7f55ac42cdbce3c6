"""What a study survives, as `benchmarks/faults.py` struck it last, for `notebooks/faults.ipynb`."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lth_study.records import results_file
from lth_study.report.looks import style
from lth_study.settings import SettingError

COUNTS = ["struck", "recovered", "named", "lost", "twice", "failures"]
PARAMETERS = "parameters: "
"""What the names of those rows begin with that ask for nonsense, instead of striking a study."""


def campaign(kind: str = "") -> pd.DataFrame:
    """The last campaign, a row a kind of fault, of those kinds with `kind` in their names.

    Raises `SettingError`, listing all kinds, if none has.
    """
    table = pd.read_csv(results_file("faults.csv"))
    chosen = table[table["fault"].str.contains(str(kind), regex=False)]
    if not len(chosen):
        raise SettingError(f"kind: no fault has {kind!r} in its name; known: {', '.join(table['fault'])}")
    return chosen.reset_index(drop=True)


def outcomes(table: pd.DataFrame) -> Figure:
    """For every kind of fault, how many struck, how many the study recovered from, and how many a message named."""
    with style():
        figure, axes = plt.subplots(figsize=(8, 1.2 + 0.32 * len(table)), layout="constrained")
        places = range(len(table))
        axes.barh(places, table["struck"], color="0.7", label="struck")
        axes.plot(table["recovered"], places, "o", label="recovered", clip_on=False)
        axes.plot(table["named"], places, "x", label="named", markeredgewidth=2, clip_on=False)
        axes.set_yticks(places, table["fault"])
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0, 1.5 * table["struck"].max())
        axes.margins(y=0.01)
        axes.set_xlabel("faults")
        figure.legend(loc="outside upper center", ncols=3)
    return figure
