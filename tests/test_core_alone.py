"""`lth_core` in an interpreter that has nothing but torch, numpy, safetensors and what these need; and in the wheel."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from project import EXTRAS, PRINTED, ROOT, built_wheel, example, link_packages, python

MODULES = {
    package: {str(file.relative_to(ROOT)) for file in (ROOT / package).rglob("*.py")}
    for package in ("lth_core", "lth_study")
}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder that holds torch, numpy, safetensors and what they need: links to the installed ones."""
    return link_packages(tmp_path / "packages", ["torch", "numpy", "safetensors"])


def test_the_command_says_how_to_install_what_it_lacks(packages: Path) -> None:
    for package in MODULES:
        shutil.copytree(ROOT / package, packages / package)
    run = "import runpy; runpy.run_module('lth_study', run_name='__main__', alter_sys=True)"
    ran = python(packages, run, "--version")
    assert ran.returncode != 0
    (line,) = ran.stderr.splitlines()
    missing = re.search(r"'(\w+)' is not installed", line)
    assert missing is not None, line
    assert missing[1] in [Requirement(study).name for study in EXTRAS["study"]]
    assert "pip install 'lth-core[study]'" in line


def test_the_wheel_holds_both_packages_and_its_core_runs_the_readmes_example_alone(
    packages: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(built_wheel(tmp_path)) as archive:
        held = {name for name in archive.namelist() if name.split("/")[0] in MODULES}
        archive.extractall(packages, [name for name in held if name.startswith("lth_core/")])
    typed = {"lth_core/py.typed", "lth_study/py.typed", "lth_study/__init__.pyi"}
    assert held == MODULES["lth_core"] | MODULES["lth_study"] | typed
    imports = [f"import {file.removesuffix('.py').replace('/', '.')}" for file in sorted(MODULES["lth_core"])]
    ran = python(packages, "\n".join([*imports, example(), "import lth_core; print(lth_core.__file__)"]))
    assert ran.returncode == 0, ran.stderr
    *printed, origin = ran.stdout.splitlines()
    assert [line.split()[0] for line in printed] == PRINTED
    assert Path(origin) == packages / "lth_core" / "__init__.py"
