"""Build the book: execute every notebook through papermill, two at a time, then Jupyter Book with warnings as errors.

    python book/build.py            # what `make book` does
    python book/build.py --store    # `make notebooks`: execute the notebooks and store their outputs, building no page
    python book/build.py --page NAME FILE   # for workflow/Snakefile: execute one page's notebook into a file
    python book/build.py --pages FOLDER     # the same: build the book from a folder of them

`--url` and `--repository` say where the book and its source are published: pages then have a canonical address, a link
to the repository, and buttons that open a notebook in Binder or Colab. Nothing of this is on the pages without them.

Notebooks leave figures in book/_static/figures. `pages` writes the chapters that show them.

The pages are written to _build/html. A notebook that fails stops the build before any page is made.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import api
import archive
import diagrams
import explorer
import finish
import nbformat
import pages
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from lth_core import __version__

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = Path("notebooks")
EXECUTED = Path("book/executed")
FIGURES = Path("book/_static/figures")
FIGURES_PART = Path("book/figures.part")
README = Path("README.md")
PART = Path("book/executed.part")
MATHJAX = Path("book/_static/mathjax")
INDEX = Path("_build/html/index.html")
GITHUB = "https://github.com"


class Page(NamedTuple):
    """A page made from a notebook, with a title of its own and, where they are not the notebook's, parameters."""

    notebook: str
    title: str
    parameters: dict[str, Any]


JPEG_VGG19 = {"network": "vgg19", "dataset": "cifar10_jpeg", "replicates": 3}
JPEG_VGG19 |= dict.fromkeys(("levels", "compared_levels", "orders"))
"""What is recorded of VGG-19; None stands for the profile's own."""
FIGURE_9 = {"recipe": "warmup", "methods": ["imp", "random_reinit", "snip"], "compared_levels": "all"}

PAGES = {
    "cifar10_accuracy": Page("cifar10_accuracy", "ResNet-20: accuracy, from initialisation and rewound", {}),
    "cifar10_stability": Page("cifar10_stability", "ResNet-20: does stability explain it?", {}),
    "cifar10_stability_deep": Page(
        "cifar10_stability",
        "ResNet-20: stability at 5.5% of the weights",
        {"compared_levels": [13, 8]},
    ),
    "cifar10_recipes": Page("cifar10_recipes", "ResNet-20: the learning-rate story", {}),
    "cifar10_recipes_deep": Page(
        "cifar10_recipes",
        "ResNet-20: the learning-rate story at 5.5% of the weights",
        {"levels": 13},
    ),
    "vgg19_accuracy": Page(
        "cifar10_accuracy",
        "VGG-19: accuracy, from initialisation and rewound",
        {"network": "vgg19", "dataset": "cifar10_jpeg", "replicates": 3},
    ),
    "vgg19_stability": Page(
        "cifar10_stability",
        "VGG-19: does stability explain it?",
        JPEG_VGG19,
    ),
    "vgg19_recipes": Page(
        "cifar10_recipes",
        "VGG-19: the learning-rate story",
        {"network": "vgg19", "rewinds": [0, 10, 100]},
    ),
    "figure_9": Page(
        "pruning_at_init",
        "After the paper: SNIP beside tickets of ResNet-20, with the warmup recipe",
        FIGURE_9,
    ),
    "figure_9_vgg19": Page(
        "pruning_at_init",
        "After the paper: SNIP beside tickets of VGG-19, with the warmup recipe",
        FIGURE_9 | {"network": "vgg19", "levels": 12, "replicates": 3},
    ),
    "imagenet": Page("imagenet", "ResNet-50: one-shot pruning, from initialisation and rewound", {}),
    "imagenet_squeezenet": Page(
        "imagenet",
        "SqueezeNet: one-shot pruning, from initialisation and rewound",
        {"network": "squeezenet1_0"},
    ),
    "imagenet_inception": Page(
        "imagenet",
        "Inception-v3: one-shot pruning, from initialisation and rewound",
        {"network": "inception_v3"},
    ),
}
"""Name in the book -> page, where one notebook makes several, or another title says more. Every notebook with its own
parameters is a page in any case, under the name of its file."""


def check_jupyter_book() -> None:
    """Refuse Jupyter Book 2, which ignores `_config.yml` and `_toc.yml`."""
    found = version("jupyter-book")
    if found.split(".")[0] != "1":
        sys.exit(f"this book needs jupyter-book 1.x, found {found}; install it with: "
                 "pip install -c constraints.txt -e '.[book]'")  # fmt: skip


def place_mathjax() -> None:
    """Put MathJax beside the pages, from the package django-static-mathjax: the book loads nothing from elsewhere.

    The parts that are loaded on demand come too, the speech for screen readers among them; the other formats stay out.
    """
    package = Path(str(files("mathjax"))) / "static" / "mathjax"
    others = shutil.ignore_patterns("*chtml*", "*-full*.js", "node-main.js", "output", "adaptors")
    shutil.rmtree(MATHJAX, ignore_errors=True)
    shutil.copytree(package / "es5", MATHJAX, ignore=others)
    shutil.copyfile(package / "LICENSE", MATHJAX / "LICENSE")


@contextmanager
def own_sockets() -> Iterator[Config]:
    """Settings by which a kernel talks through sockets in a folder of its own, where no other one can race for them."""
    with TemporaryDirectory() as folder:
        sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}
        yield Config(dict.fromkeys(("KernelManager", "AsyncKernelManager"), sockets))


def execute(notebook: Path, destination: Path, parameters: dict[str, Any], figures: Path = FIGURES) -> None:
    """Run a notebook with these parameters, and its own values of the others. Keep the figures that it publishes."""
    started, name = time.monotonic(), destination.stem
    say(f"executing {name}")
    try:
        with own_sockets() as config:
            folder = str(FIGURES_PART / name)
            papermill.execute_notebook(
                str(notebook), str(destination), parameters, kernel_name="python3", progress_bar=False, config=config,
                extra_arguments=[f"--IPKernelApp.exec_lines=__import__('os').environ.update(LTH_FIGURES={folder!r})"],
            )  # fmt: skip
    except PapermillExecutionError as error:
        sys.exit(f"{notebook} failed, so the book is not built: {error}")
    keep_figures(notebook, name, parameters, figures)
    say(f"executed {name} in {time.monotonic() - started:.0f} s")


def keep_figures(notebook: Path, page: str, parameters: dict[str, Any], figures: Path) -> None:
    """Put a page's figures among those of the book, named after it, with the command that draws them again."""
    command = f"papermill {notebook} {page}.ipynb"
    if parameters:
        command += f' -y "{yaml.safe_dump(parameters, default_flow_style=True, width=1000).strip()}"'
    figures.mkdir(parents=True, exist_ok=True)
    for file in (FIGURES_PART / page).glob("*"):
        kept = figures / f"{page}-{file.name}"
        if file.suffix == ".json":
            about = json.loads(file.read_text()) | {"page": page, "command": command}
            file.write_text(json.dumps(about, indent=1))
        shutil.move(file, kept)


def say(line: str) -> None:
    """Print a line in one piece; `print` writes the end of a line by itself, after what another thread writes."""
    print(f"{line}\n", end="", flush=True)


def execute_all(runs: list[tuple[Path, Path, dict[str, Any]]]) -> None:
    """Run notebooks two at a time. Once one fails, no other is started; the one beside it is waited for."""
    failed = Event()

    def attempt(run: tuple[Path, Path, dict[str, Any]]) -> None:
        if failed.is_set():
            return
        try:
            execute(*run)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, runs))


def retitle(file: Path, title: str) -> None:
    """Give an executed notebook another title, the first line of its first cell."""
    notebook = nbformat.read(file, as_version=4)
    first = notebook.cells[0]
    first.source = "\n".join([f"# {title}", *first.source.splitlines()[1:]])
    nbformat.write(notebook, file)


def collect(further: bool = True) -> None:
    """Fill `book/executed` with all notebooks and, if wanted, the further pages, or leave it as it was."""
    notebooks = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not notebooks:
        sys.exit(f"no notebooks in {ROOT / NOTEBOOKS}")
    for folder in (PART, FIGURES_PART, FIGURES):
        shutil.rmtree(folder, ignore_errors=True)
    PART.mkdir()
    others = PAGES if further else {}
    runs = [(notebook, PART / notebook.name, dict[str, Any]()) for notebook in notebooks]
    runs += [
        (NOTEBOOKS / f"{page.notebook}.ipynb", PART / f"{name}.ipynb", page.parameters)
        for name, page in others.items()
        if name != page.notebook
    ]
    execute_all(runs)
    shutil.rmtree(FIGURES_PART, ignore_errors=True)
    for name, page in others.items():
        retitle(PART / f"{name}.ipynb", page.title)
    shutil.rmtree(EXECUTED, ignore_errors=True)
    PART.rename(EXECUTED)


def execute_page(name: str, destination: Path) -> None:
    """Execute the notebook of one page into a file. Its figures go into the folder `figures` beside it."""
    page = PAGES.get(name, Page(name, "", {}))
    destination.parent.mkdir(parents=True, exist_ok=True)
    execute(NOTEBOOKS / f"{page.notebook}.ipynb", destination, page.parameters, destination.parent / "figures")
    if page.title:
        retitle(destination, page.title)


def store_outputs() -> None:
    """Put the executed notebooks in the place of the notebooks, without papermill's notes on the run.

    The README shows the figure of ResNet-20 at the paper's scale, and the main findings.
    """
    for executed in sorted(EXECUTED.glob("*.ipynb")):
        notebook = nbformat.read(executed, as_version=4)
        notebook.metadata.pop("papermill", None)
        for cell in notebook.cells:
            cell.metadata.pop("papermill", None)
            cell.metadata.pop("execution", None)
            if not cell.metadata.get("tags", True):
                del cell.metadata["tags"]
        nbformat.write(notebook, NOTEBOOKS / executed.name)
    for theme in ("light", "dark"):
        shutil.copyfile(FIGURES / f"cifar10_scale-paper_scale.{theme}.svg", f"book/_static/rewinding.{theme}.svg")
    before, rest = README.read_text().split("<!-- results -->\n")
    after = rest.partition("<!-- end of results -->")[2]
    README.write_text(f"{before}<!-- results -->\n{pages.readme_results()}<!-- end of results -->{after}")


def address(text: str) -> str:
    """Where the book is published, as `--url` gives it."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; write it in full, as in https://example.org/book")
    return text.rstrip("/") + "/"


def repository(text: str) -> str:
    """The address of the repository, as `--repository` gives it. OWNER/NAME alone is on GitHub."""
    found = text if "://" in text else f"{GITHUB}/{text}"
    found = found.removesuffix("/").removesuffix(".git")
    if not re.fullmatch(rf"({GITHUB}|https://gitlab\.com)/[\w.-]+/[\w.-]+", found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no repository on GitHub or GitLab; write OWNER/NAME, or https://gitlab.com/OWNER/NAME"
        )
    return found


def configuration(url: str | None, repository: str | None) -> dict[str, Any]:
    """What is in `_config.yml`, the version, and where the book and its source are published.

    A date stands beside the version only where `SOURCE_DATE_EPOCH` gives one, in seconds since 1970. With the day of
    the build in its place, the same sources would make other pages every day.
    """
    config: dict[str, Any] = yaml.safe_load(Path("_config.yml").read_text())
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    date = f" of {datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d}" if seconds else ""
    config["html"]["extra_footer"] += f" Version {__version__}{date}."
    if url:
        config["html"]["baseurl"] = url
    if repository:
        config["html"]["use_repository_button"] = True
        config["repository"] = {"url": repository, "branch": "HEAD"}  # the default branch, whatever its name
        config["launch_buttons"] = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
        if repository.startswith(GITHUB):  # Colab opens notebooks of no other host
            config["launch_buttons"]["colab_url"] = "https://colab.research.google.com"
    return config


def build_pages(config: dict[str, Any]) -> int:
    """Run Jupyter Book; any warning is an error."""
    shutil.rmtree("_build", ignore_errors=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--all", "-W", "-n", "--keep-going"]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "_config.yml"
        file.write_text(yaml.safe_dump(config))
        return subprocess.run([*command, "--config", str(file)], stdin=subprocess.DEVNULL, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the book into _build/html.")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--store", action="store_true", help="execute the notebooks and store their outputs, no more")
    either.add_argument("--page", nargs=2, metavar=("NAME", "FILE"), help="execute one page's notebook, no more")
    either.add_argument("--pages", type=Path, metavar="FOLDER", help="take the executed notebooks of a folder")
    parser.add_argument("--url", type=address, help="where the book is published")
    parser.add_argument(
        "--repository", type=repository, help="where its source is: OWNER/NAME on GitHub, or an address"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    check_jupyter_book()
    os.chdir(ROOT)
    if arguments.page:
        execute_page(arguments.page[0], Path(arguments.page[1]))
        return
    if arguments.pages:
        for folder in (EXECUTED, FIGURES):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(arguments.pages, EXECUTED, ignore=shutil.ignore_patterns("figures"))
        shutil.copytree(arguments.pages / "figures", FIGURES)
    else:
        collect(further=not arguments.store)
    if arguments.store:
        store_outputs()
        return
    place_mathjax()
    pages.write_pages()
    api.write()
    explorer.write()
    archive.write(archive.ARCHIVE)
    diagrams.write()
    status = build_pages(configuration(arguments.url, arguments.repository))
    if status or not INDEX.exists():
        sys.exit(f"jupyter-book failed with exit status {status}; its messages are above")
    finish.finish_pages(INDEX.parent, {name: page.notebook for name, page in PAGES.items()}, pages.published())
    print(f"the book: {ROOT / INDEX}")


if __name__ == "__main__":
    main()
