"""What a study survives, as `benchmarks/faults.py` struck it last, for `notebooks/faults.ipynb`."""

from __future__ import annotations

import pandas as pd

from lth_study.records import results_file
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
