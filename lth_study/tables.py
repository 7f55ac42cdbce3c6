"""The CSV files of records: their columns, and reading and writing them with every check.

`results/<study>/` holds `config.json`, `records.csv` (a row for each value), `provenance.csv` (a row for each
training: device, versions, date, seconds) and `sums.sha256` of the two. `records` merges these tables.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from lth_study.files import StoreError, write_atomic
from lth_study.methods import TABLE
from lth_study.settings import Setting
from lth_study.store import write_setting

STUDY = ["digest", "network", "recipe", "profile", "dataset"]
TRAINING = ["method", "rewind", "replicate", "level"]
COLUMNS = [*STUDY, *TRAINING, "density", "order", "metric", "value"]
"""Each row is one value. `order` is a data order ("0"), or the two that a distance or a barrier compares ("0-1")."""

PROVENANCE = [*TRAINING, "order", "iterations", "seconds", "device", "lth_core", "torch", "python",
              "data_fingerprint", "finished", "workers"]  # fmt: skip
SINCE_RECORDED = "workers"
"""A column that early records lack: the processes, or threads on a GPU, of the run when a training ended."""
KEY = [*STUDY, *TRAINING, "order", "metric"]
PROVENANCE_KEY = [*TRAINING, "order"]

TYPES: dict[str, type | str] = {
    **dict.fromkeys(("order", "digest", "method", "metric", "data_fingerprint"), str),
    **dict.fromkeys(("rewind", "replicate", "level", "iterations"), int),
    **dict.fromkeys(("density", "value", "seconds"), float),
    SINCE_RECORDED: "Int64",
}
ORDER = r"\d+(-\d+|-again)?"


def read(folder: Path, setting: Setting) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and provenance of a study from a folder of records. Both tables are empty if the study is not there."""
    study = folder / setting.name
    if not (study / "records.csv").exists():
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=PROVENANCE)
    sums = _kept_sums(study)
    records = _read_csv(study / "records.csv", COLUMNS, KEY)
    if strangers := set(records["digest"]) - {setting.digest()}:
        raise StoreError(f"{study / 'records.csv'} has records of other studies: {', '.join(sorted(strangers))}")
    provenance = _read_csv(study / "provenance.csv", PROVENANCE, PROVENANCE_KEY)
    as_written = sums in (None, _sums(study))
    if sums != _kept_sums(study):  # another process has written records meanwhile
        return read(folder, setting)
    if not as_written:
        raise StoreError(
            f"{study} is not as it was written: `sha256sum -c sums.sha256` there names the file; restore it, or delete "
            "sums.sha256 if the change is yours"
        )
    return records, provenance


def write(folder: Path, setting: Setting, records: pd.DataFrame, provenance: pd.DataFrame) -> Path:
    """Write a study's records into a folder of records, with checksums as `sha256sum` reads them."""
    study = folder / setting.name
    write_setting(study / "config.json", setting)
    (study / "sums.sha256").unlink(missing_ok=True)  # until both tables are written
    for name, table in (("provenance", provenance), ("records", records)):  # records last: `read` looks for them
        write_atomic(study / f"{name}.csv", table.to_csv(index=False, float_format="%.7g").encode())
    write_atomic(study / "sums.sha256", _sums(study).encode())
    return study


def _kept_sums(study: Path) -> str | None:
    """The checksums beside a study's tables. Older folders have none, and none is there while tables are written."""
    with suppress(FileNotFoundError):
        return (study / "sums.sha256").read_text(errors="replace")
    return None


def _sums(study: Path) -> str:
    names = ("provenance.csv", "records.csv")
    return "".join(f"{hashlib.sha256((study / name).read_bytes()).hexdigest()}  {name}\n" for name in names)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the order of files: by method, rewinding iteration, replicate, level, data order and metric."""
    keys = [name for name in (*TRAINING, "order", "metric") if name in table.columns]
    return table.sort_values(keys, kind="stable").reset_index(drop=True)


def _read_csv(file: Path, columns: Sequence[str], key: Sequence[str]) -> pd.DataFrame:
    """A table of a results folder. Raises `StoreError` if it is cut off or altered, for example by a merge conflict."""
    try:
        text = file.read_text()
        table = pd.read_csv(io.StringIO(text), dtype=TYPES)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from None
    if SINCE_RECORDED in columns and SINCE_RECORDED not in table.columns:
        table[SINCE_RECORDED] = pd.array([pd.NA] * len(table), dtype=TYPES[SINCE_RECORDED])
    if list(table.columns) != list(columns):
        raise StoreError(f"{file} has the columns {list(table.columns)}; expected {list(columns)}")
    faults = {
        "an empty cell": table.drop(columns=SINCE_RECORDED, errors="ignore").isna().any(axis=1),
        "an unknown method": ~table["method"].isin(["dense", *TABLE]),
        "no data order": ~table["order"].fillna("").str.fullmatch(ORDER),
        "what another row says": table.duplicated(list(key)),
    }
    for fault, rows in faults.items():
        if rows.any():
            raise StoreError(f"{file}, line {rows.idxmax() + 2}: {fault}; restore the file")
    if not text.endswith("\n"):
        raise StoreError(f"{file} is cut off in its last line; restore the file")
    return table
