"""workflow/Snakefile on one machine: its units, their order, and the same records as `lth run`."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from project import ROOT

SNAKEMAKE, LTH = ROOT / ".venv-flow/bin/snakemake", ROOT / ".venv/bin/lth"
FEW = "lenet_300_100 --profile smoke --figure stability --rewinds 0 --levels 1 --orders 1 --replicates 2"
installed = pytest.mark.skipif(
    not (SNAKEMAKE.exists() and LTH.exists()), reason="needs .venv-flow, which `make test-cluster` makes, and .venv"
)


def snakemake(folder: Path, *options: str, **config: str) -> str:
    """What Snakemake says of the workflow with the local profile, with everything that it writes in a folder."""
    settings = [
        f"{name}={value}" for name, value in {"folder": folder, "results": folder / "results", **config}.items()
    ]
    command = [SNAKEMAKE, "--snakefile", ROOT / "workflow/Snakefile", "--profile", ROOT / "workflow/profiles/local"]
    command += ["--directory", folder, "--cores", "1", *options, "--config", *settings]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@installed
def test_the_agenda_is_planned_up_to_the_book(tmp_path: Path) -> None:
    said = snakemake(tmp_path, "-n", "--quiet", "rules", plan="agenda --profile laptop --device Processor")
    units = json.loads((tmp_path / "plan.json").read_text())
    jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}
    pages = len(re.findall("book/executed/", (ROOT / "_toc.yml").read_text()))
    assert jobs.pop("total") == sum(jobs.values())
    assert jobs == {"unit": len(units), "export": len(units), "gather": 1, "page": pages, "book": 1, "all": 1}
    assert len({unit["unit"] for unit in units}) == len(units)


@installed
def test_a_small_study_goes_through_the_workflow_in_order_and_has_the_records_of_a_plain_run(tmp_path: Path) -> None:
    said = snakemake(tmp_path / "flow", plan=f"plan {FEW}", pages="provenance")
    units = [unit["unit"] for unit in json.loads((tmp_path / "flow/plan.json").read_text())]
    assert list(dict.fromkeys(re.findall(r"output: \S+/done/(\S+)", said))) == units
    assert len(units) == 2
    cells = json.loads((tmp_path / "flow/pages/provenance.ipynb").read_text())["cells"]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    environment = os.environ | {"LTH_STORE": str(tmp_path / "plain"), "LTH_RESULTS": str(tmp_path / "results")}
    for command in (f"run {FEW} --workers 1", "export"):
        subprocess.run([LTH, *command.split()], env=environment, check=True, capture_output=True)
    one, other = ((tmp_path / name).glob("*/records.csv") for name in ("flow/results", "results"))
    assert next(one).read_bytes() == next(other).read_bytes()
    again = snakemake(tmp_path / "flow", plan=f"plan {FEW}", pages="provenance")
    assert "Nothing to be done" in again
    deeper = snakemake(tmp_path / "flow", plan=f"plan {FEW.replace('--levels 1', '--levels 2')}", pages="provenance")
    assert set(re.findall(r"output: \S+/done/(\S+)", deeper)) == set(units)
    (table,) = (tmp_path / "flow/results").glob("*/records.csv")
    assert pd.read_csv(table)["level"].max() == 2


def test_profiles_have_what_is_known_to_be_needed() -> None:
    profiles = {name: ROOT / "workflow/profiles" / name / "config.yaml" for name in ("local", "slurm")}
    options = {name: yaml.safe_load(file.read_text()) for name, file in profiles.items()}
    for given in options.values():
        assert given["rerun-triggers"] == ["mtime"]  # a change of code must not train everything again
        assert given["retries"] > 0
    # a rule with retries would repeat the job in place, where it has just been told to stop
    assert "retries" not in (ROOT / "workflow/Snakefile").read_text()
    assert options["slurm"]["slurm-requeue"]
