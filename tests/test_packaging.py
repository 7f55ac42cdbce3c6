"""pyproject.toml is the one list of dependencies; constraints.txt and environment.yml follow it."""

from __future__ import annotations

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from project import EXTRAS, PROJECT, ROOT, with_what_they_need

NEEDED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip() and not line.startswith("#")
]


def pins() -> dict[str, str]:
    parsed = [Requirement(line) for line in CONSTRAINTS]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in parsed}


def environment() -> tuple[list[str], list[str]]:
    """What environment.yml takes from conda, and what it hands to pip."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    through_pip = [line for entry in dependencies if isinstance(entry, dict) for line in entry["pip"]]
    return [entry for entry in dependencies if isinstance(entry, str)], through_pip


@pytest.mark.parametrize("line", CONSTRAINTS)
def test_a_constraint_is_one_exact_release(line: str) -> None:
    pin = Requirement(line)
    assert [specifier.operator for specifier in pin.specifier] == ["=="]
    assert "*" not in str(pin.specifier)
    assert not pin.url
    assert not pin.extras


def test_no_package_is_pinned_twice() -> None:
    assert len(pins()) == len(CONSTRAINTS)


@pytest.mark.parametrize("needed", NEEDED, ids=str)
def test_a_dependency_is_pinned_to_a_release_that_it_admits(needed: Requirement) -> None:
    pinned = pins().get(canonicalize_name(needed.name))
    assert pinned is not None, f"{needed.name} is in pyproject.toml and not in constraints.txt"
    assert needed.specifier.contains(pinned), f"{needed} does not admit the pinned {pinned}"


def test_whatever_the_dependencies_need_in_turn_is_pinned_too() -> None:
    found = with_what_they_need([str(needed) for needed in NEEDED])
    assert [f"{user} needs {name}" for name, user in found.items() if name not in pins()] == []


def test_conda_installs_the_same_through_pip() -> None:
    from_conda, through_pip = environment()
    assert through_pip == ["-c constraints.txt", f"-e .[{','.join(EXTRAS)}]"]
    assert [entry for entry in from_conda if not entry.startswith("python")] == ["pip"]


def test_conda_takes_the_python_that_the_project_admits() -> None:
    (python,) = [entry for entry in environment()[0] if entry.startswith("python")]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])


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
