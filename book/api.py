"""Writes the pages of the API: one for each module that a user calls, and their table for `book/api.md`.

Their words are the docstrings of the modules. Their examples stand in `book/api_examples.md`. Each goes on from the
lines on top of that file, and from no other example.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from pathlib import Path

FOLDER = Path("book/pages/api")
TABLE = Path("book/pages/modules.md")
EXAMPLES = Path("book/api_examples.md")

CORE = (
    "lth_core.masks",
    "lth_core.weights",
    "lth_core.hold",
    "lth_core.summary",
    "lth_core.pruning",
    "lth_core.scores",
    "lth_core.imp",
    "lth_core.subnetworks",
    "lth_core.levels",
    "lth_core.tickets",
    "lth_core.exchange",
    "lth_core.stability",
)
STUDY = (
    "lth_study.settings",
    "lth_study.extents",
    "lth_study.checked",
    "lth_study.presets",
    "lth_study.notebook",
    "lth_study.runner",
    "lth_study.methods",
    "lth_study.origins",
    "lth_study.plan",
    "lth_study.units",
    "lth_study.records",
    "lth_study.store",
    "lth_study.files",
    "lth_study.data",
    "lth_study.data.parts",
    "lth_study.data.augmentation",
    "lth_study.data.image_folders",
    "lth_study.data.image_files",
    "lth_study.training",
    "lth_study.training.train",
    "lth_study.ranks",
    "lth_study.networks",
    "lth_study.networks.network",
    "lth_study.networks.lenet",
    "lth_study.networks.cifar",
    "lth_study.networks.imagenet",
    "lth_study.report",
    "lth_study.report.chart",
    "lth_study.report.charts",
    "lth_study.report.looks",
    "lth_study.report.drawing",
    "lth_study.report.publish",
    "lth_study.report.claims",
    "lth_study.report.effects",
    "lth_study.report.differences",
    "lth_study.report.dense",
    "lth_study.report.claim_tables",
    "lth_study.report.matching",
    "lth_study.report.provenance",
    "lth_study.costs.trainings",
    "lth_study.costs.hours",
    "lth_study.costs.limits",
    "lth_study.costs.benchmarks",
    "lth_study.costs.sparse",
    "lth_study.costs.cluster",
    "lth_study.costs.faults",
    "lth_study.agenda.parts",
    "lth_study.agenda.table",
    "lth_study.agenda.run",
    "lth_study.weights",
)
"""The modules, in the order of the table."""

OPTIONS = {
    "lth_core.masks": ":members:\n:special-members: __getitem__",
    "lth_core.weights": ":members: prunable, Prunable",
    "lth_core.summary": ":members: Summary, Part",
    "lth_study.settings": ":members:\n:exclude-members: model_config",
    "lth_study.extents": ":members:\n:exclude-members: model_config",
    "lth_study.checked": ":members:\n:exclude-members: model_config",
    "lth_study.runner": ":members: run",
    "lth_study.store": ":members: StudyStore, Training",
    "lth_study.files": ":members: StoreError",
    "lth_study.training": ":members: Stopped",
    "lth_study.networks.imagenet": ":members: ImageNetNetwork",
}
"""What autodoc shows of a module where that is not all of its public members."""


def write() -> None:
    """Write the pages and the table."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    first, shown = examples()
    for module in CORE + STUDY:
        example = f"\n## Example\n\n```pycon\n{first}{shown[module]}```\n" if module in shown else ""
        indented = "".join(f"   {line}\n" for line in OPTIONS.get(module, ":members:").splitlines())
        (FOLDER / f"{module}.md").write_text(
            f"---\nnosearch: true\n---\n\n# {module}\n\n"
            f"```{{eval-rst}}\n.. automodule:: {module}\n{indented}```\n{example}"
        )
    TABLE.write_text(f"## The method\n\n{_table(CORE)}\n## The experiment\n\n{_table(STUDY)}")


def examples() -> tuple[str, dict[str, str]]:
    """What every example begins with, and the examples by module, as in an interactive session."""
    first, *others = re.split(r"^## (.*)\n", EXAMPLES.read_text(), flags=re.MULTILINE)
    sessions = [re.search(r"```pycon\n(.*?)```", text, flags=re.DOTALL) for text in (first, *others[1::2])]
    begin, *rest = [session[1] for session in sessions if session]
    return begin, dict(zip(others[::2], rest, strict=True))


def _table(modules: tuple[str, ...]) -> str:
    rows = [f"| [{module}](pages/api/{module}.md) | {_purpose(module)} |" for module in modules]
    return "\n".join(["| module | what it is for |", "|---|---|", *rows]) + "\n"


def _purpose(module: str) -> str:
    """The first sentence of a module's docstring."""
    words = " ".join((inspect.getdoc(importlib.import_module(module)) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.?!]) (?=[A-Z`])", words)[0]
