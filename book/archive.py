"""Packs the records and the numbers of all figures into one file: `make archive`, and the book's own copy of it.

    python book/archive.py FILE

The tickets stay out. They are weights, many times as large, and each is a folder to download with a card of its own.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from pages import FIGURES

from lth_core import __version__
from lth_study.records import results_file, results_folder
from lth_study.tickets import CITATION

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = Path("book/pages/lth-core-data.zip")
README = f"""\
# Records of "Stabilizing the Lottery Ticket Hypothesis: a living reproduction", version {__version__}

- `results/claims.csv`: the claims, each with the rule that judges it.
- `results/paper_values.csv`: the paper's own numbers.
- `results/<study>/`: the study's settings (`config.json`), a measured value a row (`records.csv`), and where and when
  each training ran (`provenance.csv`). Where there is a `sums.sha256`, it has the checksums of both tables.
- `results/*`: what benchmarks measured.
- `figures/<page>-<figure>.csv`: every number that a figure of the book draws. The JSON beside it has the figure's
  caption, the command that draws it again, and what it costs.

`lth import results` merges the records into those of a checkout, and refuses what disagrees.

## Licence

Our own measurements: CC BY 4.0, see `LICENSE-BOOK.md`. The numbers in `results/paper_values.csv` are those of the
paper's authors. Code: MIT licence, see `LICENSE`.

## How to cite

```bibtex
{CITATION % __version__}
```
"""


def contents() -> dict[str, bytes]:
    """Name in the archive -> content. Exits where the figures are not drawn yet."""
    figures = [file for file in (ROOT / FIGURES).glob("*") if file.suffix in (".csv", ".json")]
    if not figures:
        sys.exit(f"no figures in {ROOT / FIGURES}; make book draws them")
    tables = [results_file(file.name) for file in (ROOT / "results").glob("[!.]*.*") if file.is_file()]
    studies = [file for file in results_folder().glob("*/*") if file.is_file()]  # tickets lie a folder deeper
    files = {f"figures/{file.name}": file for file in figures}
    files |= {f"results/{file.name}": file for file in tables}
    files |= {f"results/{file.parent.name}/{file.name}": file for file in studies}
    files |= {name: ROOT / name for name in ("LICENSE", "LICENSE-BOOK.md", "CITATION.cff")}
    return {"README.md": README.encode()} | {name: file.read_bytes() for name, file in files.items()}


def write(destination: Path) -> None:
    """Write the archive. The same content gives the same bytes: names are in order, and no time is kept."""
    with zipfile.ZipFile(destination, "w") as opened:
        for name, content in sorted(contents().items()):
            entry = zipfile.ZipInfo(f"lth-core-data-{__version__}/{name}")  # of 1980, zip's first year
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Linux, on every system
            opened.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
