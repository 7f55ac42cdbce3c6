"""pyproject.toml is the one list of dependencies; constraints.txt and environment.yml follow it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from project import EXTRAS, PROJECT, ROOT, built_wheel, with_what_they_need

NEEDED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip() and not line.startswith("#")
]


def pins() -> dict[str, str]:
    parsed = [Requirement(line) for line in CONSTRAINTS]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in parsed}


def test_every_constraint_is_one_exact_release_of_another_package() -> None:
    parsed = [Requirement(line) for line in CONSTRAINTS]
    assert len({canonicalize_name(pin.name) for pin in parsed}) == len(parsed)
    for pin in parsed:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
        assert "*" not in str(pin.specifier), pin
        assert not pin.url, pin
        assert not pin.extras, pin


def test_dependencies_and_what_they_need_in_turn_are_pinned_to_releases_that_they_admit() -> None:
    found = with_what_they_need([str(needed) for needed in NEEDED])
    assert [f"{user} needs {name}" for name, user in found.items() if name not in pins()] == []
    chosen = {needed: pins()[canonicalize_name(needed.name)] for needed in NEEDED}
    assert [f"{needed}, not {pin}" for needed, pin in chosen.items() if not needed.specifier.contains(pin)] == []


LOCKED = (ROOT / "locked.txt").read_text().splitlines()


def test_every_locked_wheel_is_of_the_pinned_release_and_has_one_hash() -> None:
    for line in LOCKED:
        found = re.fullmatch(r"([\w.-]+)==([\w.+!]+) --hash=sha256:[0-9a-f]{64}", line)
        assert found, line
        assert pins()[canonicalize_name(found[1])] == found[2]


@pytest.mark.skipif(
    (sys.version_info[:2], sys.platform, platform.machine()) != ((3, 11), "linux", "x86_64"),
    reason="the wheels of locked.txt are for Python 3.11 on Linux x86-64",
)
def test_every_package_that_make_installs_is_locked() -> None:
    locked = {canonicalize_name(line.split("==")[0]) for line in LOCKED}
    lines = [line for name in ("study", "book", "test", "dev") for line in EXTRAS[name]]
    found = with_what_they_need([*PROJECT["dependencies"], *lines])
    assert [f"{user} needs {name}" for name, user in found.items() if name not in locked] == []
    assert len(locked) == len(LOCKED)


def test_conda_takes_the_python_that_the_project_admits_and_installs_the_same_through_pip() -> None:
    python, pip, through_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    assert through_pip == {"pip": ["-c constraints.txt", f"-e .[{','.join(EXTRAS)}]"]}


def test_the_versions_agree() -> None:
    version, study = (
        (ROOT / package / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]
        for package in ("lth_core", "lth_study")
    )
    assert study == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


def test_commits_are_checked_with_the_pinned_ruff() -> None:
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert hooks["rev"] == f"v{pins()['ruff']}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel holds, unpacked where there is no checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built_wheel(folder)) as opened:
        opened.extractall(folder / "site")
    return folder / "site"


def elsewhere(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in another folder, with the installed packages alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LTH_")}
    command = [sys.executable, *arguments]
    environment["PYTHONPATH"] = str(installed)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_without_a_checkout_a_study_is_done_in_the_current_folder(installed: Path, tmp_path: Path) -> None:
    few = ("lenet_300_100", "--profile=smoke", "--rewinds=0", "--levels=1")
    for command, told in (
        (("run", *few, "--orders=1", "--figure=stability"), "[7/7]"),
        (("status", *few, "--orders=1"), "stability: 4 of 4 trainings"),
        (("export",), "results/lenet_300_100"),
        (("import", "results", "theirs"), "theirs/lenet_300_100"),
        (("tickets", *few), "imp_rewind_0_level_01_replicate_1"),
    ):
        done = elsewhere(installed, tmp_path, "-m", "lth_study", *command)
        assert (done.returncode, done.stderr) == (0, "")
        assert told in done.stdout
    (tmp_path / "data").rmdir()  # the fixtures' own
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "results", "theirs", "tickets"}
    program = """
from lth_study import configure, report, run
study, _ = configure({"profile": "smoke", "rewinds": [0], "levels": 1, "orders": 1}, network="lenet_300_100")
print(report.caption(run(study.only("stability"), missing="error"), study.setting))
"""
    done = elsewhere(installed, tmp_path, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert "smoke profile" in done.stdout


def test_without_a_checkout_it_is_said_what_needs_one(installed: Path, tmp_path: Path) -> None:
    remedy = f"{tmp_path / 'results'}; set LTH_RESULTS to the folder results/ of a checkout"
    done = elsewhere(installed, tmp_path, "-m", "lth_study", "agenda")
    assert done.stderr == f"lth: claims.csv is not in {remedy}\n"
    messages = {
        "report.paper_values()": f"paper_values.csv is not in {remedy}",
        "claims.judged()": f"claims.csv is not in {remedy}",
        "hours.floors()": f"benchmark.csv is not in {remedy}",
        "provenance.recorded_studies()": f"There is no {remedy}. no recorded study has ''",
        "run(preset('vgg19'), missing='error')": f"There is no {remedy}. ",
        "tickets.committed()": f"tickets is not in {remedy}",
    }
    program = f"""
from lth_study import preset, report, run, tickets
from lth_study.costs import hours
from lth_study.report import claims, provenance
for call in {list(messages)}:
    try:
        eval(call)
    except Exception as error:
        print(error)
"""
    done = elsewhere(installed, tmp_path, "-c", program)
    for message, said in zip(messages.values(), done.stdout.splitlines(), strict=True):
        assert said.startswith(message)
