"""A small campaign of `benchmarks/faults.py`, so that it keeps running, and what it must show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from project import ROOT


def test_a_small_campaign_loses_nothing_trains_nothing_twice_and_names_every_fault(tmp_path: Path) -> None:
    table = tmp_path / "faults.csv"
    ran = subprocess.run(
        [sys.executable, "benchmarks/faults.py", "--rounds", "0.015", "--output", str(table)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = pd.read_csv(table).set_index("fault")
    assert (found["struck"] >= 1).all()
    assert not found[["lost", "twice", "failures"]].to_numpy().any(), ran.stdout
    for name in ("damaged: ticket", "torn download"):
        assert found.loc[name, "named"] == found.loc[name, "struck"]
    same = found.drop(index=[name for name in found.index if name.startswith("parameters: ")])
    assert (same["recovered"] == same["struck"]).all()
