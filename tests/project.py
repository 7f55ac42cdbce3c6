"""What pyproject.toml lists, what that needs in turn, and the example in README.md."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
README = (ROOT / PROJECT["readme"]).read_text()

PRINTED = ["100%", "80%", "64%", "51%", "41%", "33%"]
"""The first word of each line that README's example prints: the weights left, 0.8 to the power of the level."""


def example() -> str:
    """README's example: a ticket in a network and a loop of the user's own."""
    found = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def with_what_they_need(lines: list[str]) -> dict[str, str]:
    """These distributions, and those that they need in turn -> one that needs it."""
    found: dict[str, str] = {}
    waiting = [(Requirement(line), "pyproject.toml") for line in lines]
    seen = set()
    while waiting:
        requirement, user = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        found.setdefault(name, user)
        try:
            needed = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        extras = [{"extra": extra} for extra in ("", *requirement.extras)]
        waiting += [(n, name) for n in needed if n.marker is None or any(map(n.marker.evaluate, extras))]
    return found


def link_packages(folder: Path, names: list[str], without: frozenset[str] = frozenset()) -> Path:
    """A folder that holds these distributions and what they need: links to the installed ones."""
    folder.mkdir()
    for name in with_what_they_need(names).keys() - without:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(installed.locate_file(top))))
    return folder


def built_wheel(folder: Path) -> Path:
    """The wheel, of a copy of the sources: setuptools leaves its build folder beside what it builds."""
    sources = folder / "sources"
    for package in ("lth_core", "lth_study"):
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]):
        shutil.copyfile(ROOT / file, sources / file)
    command = [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('..')"]
    built = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def python(packages: Path, code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code where only the standard library and one folder can be imported: -S leaves out site-packages."""
    start = f"import sys; sys.path.insert(0, {str(packages)!r})\n{code}"
    command = [sys.executable, "-I", "-S", "-c", start, *arguments]
    return subprocess.run(command, cwd=cwd or packages.parent, capture_output=True, text=True, check=False)
