"""Records: one table of measured values for each study, from committed files (`tables`) and from run stores (`store`).

`runner`, `agenda`, `report` and `costs` read records. `lth export` and `lth import` merge and write them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from lth_study.files import StoreError, locked, project_folder, read_json
from lth_study.measure import FILES
from lth_study.settings import Setting
from lth_study.store import StudyStore
from lth_study.tables import (
    COLUMNS,
    KEY,
    PROVENANCE,
    PROVENANCE_KEY,
    SINCE_RECORDED,
    STUDY,
    TYPES,
    in_order,
    read,
    write,
)

Done = TypeVar("Done")


def results_folder() -> Path:
    """The folder of committed records: `LTH_RESULTS`, or `results/` in the project."""
    return Path(os.environ.get("LTH_RESULTS") or project_folder() / "results")


def results_file(name: str) -> Path:
    """A file of the results folder, such as the paper's values. If it has none of that name: the project's own file.

    Raises `StoreError` where neither has it: the package is installed without a checkout.
    """
    for file in (results_folder() / name, project_folder() / "results" / name):
        if file.exists():
            return file
    raise StoreError(f"{name} is not in {results_folder()}; set LTH_RESULTS to the folder results/ of a checkout")


def no_results() -> str:
    """What a message begins with about something that is not recorded: where records would be."""
    folder = results_folder()
    return "" if folder.is_dir() else f"There is no {folder}; set LTH_RESULTS to the folder results/ of a checkout. "


def store_folder() -> Path:
    """The folder of run stores: `LTH_STORE`, or `runs/` in the project."""
    return Path(os.environ.get("LTH_STORE") or project_folder() / "runs")


def of_store(store: StudyStore) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and provenance of the trainings that a run store has completed."""
    setting = store.setting
    about = [setting.digest(), setting.network, setting.recipe, setting.profile, setting.dataset]
    rows, provenance, measured = [], [], set[Path]()
    for training, result in store.results().items():
        where = [training.method, training.rewind, training.replicate, training.level]
        order = f"{training.order}{'-again' if training.again else ''}"
        made = {SINCE_RECORDED: None} | result["provenance"]
        provenance.append([*where, order, *(made[name] for name in PROVENANCE[5:])])
        if training.again:
            continue
        values = dict(result["metrics"])
        if result["diverged_at"] is not None:
            values["diverged"] = result["diverged_at"]
        density = float(f"{result['density']:.7g}")  # rounded as in files, so that both sources give the same number
        rows += [[*about, *where, density, order, metric, value] for metric, value in values.items()]
        level = store.folder / Path(training.folder).parent
        if training.method == "dense" or level in measured:
            continue
        measured.add(level)
        for file in (level / name for name in FILES.values()):
            for pair, found in (read_json(file) if file.exists() else {}).items():
                rows += [[*about, *where, density, pair, metric, value] for metric, value in found.items()]
    records = pd.DataFrame(rows, columns=COLUMNS)
    traced = pd.DataFrame(provenance, columns=PROVENANCE).astype({SINCE_RECORDED: TYPES[SINCE_RECORDED]})
    return in_order(records), in_order(traced)


def merge(old: pd.DataFrame, new: pd.DataFrame, keep_old: bool = False) -> pd.DataFrame:
    """The records of both tables. Raises `StoreError` if they disagree; with `keep_old`, the old value stays instead.

    Tables disagree if another kind of processor repeated a training to continue from it: processors round differently.
    """
    if len(old) and len(new) and not keep_old:
        both = old.merge(new, on=KEY, suffixes=("", "_new"))
        differ = both[(both["value"] - both["value_new"]).abs() > 1e-6 * both["value"].abs()]
        if len(differ):
            first = differ.iloc[0]
            study, many = "-".join(first[[*STUDY[1:], "digest"]]), f"{len(differ)} of {len(both)}"
            where = f"replicate {first['replicate']}, rewind {first['rewind']}, level {first['level']}"
            raise StoreError(
                f"{study}: {many} values are recorded already with another value. First: "
                f"{first['metric']} of {first['method']}, {where}: {first['value']}, now {first['value_new']}. "
                "Another kind of processor rounds differently. To keep the recorded values and add all others, pass "
                "--keep-recorded"
            )
    return _union(old, new, KEY)


def add(
    folder: Path, setting: Setting, records: pd.DataFrame, provenance: pd.DataFrame, keep_old: bool = False
) -> Path:
    """Merge records into a folder of records, as `merge` does, and return the study's folder.

    A lock on the folder makes processes wait for each other. Raises `StoreError` if other images made the records.
    """
    with locked(folder, wait=True):
        old_records, old_provenance = read(folder, setting)
        images = {*old_provenance["data_fingerprint"], *provenance["data_fingerprint"]}
        if len(images) > 1:
            raise StoreError(
                f"{setting.name}: the new records were made with other images than the recorded ones (fingerprints "
                f"{', '.join(sorted(images))}); keep the two in separate folders"
            )
        made = _union(old_provenance, provenance, PROVENANCE_KEY)
        return write(folder, setting, merge(old_records, records, keep_old), made)


def known(setting: Setting, store: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and provenance of a study from the results folder and a run store (default: `store_folder`).

    If both have a row, the results folder's counts.
    """
    committed, own = read(results_folder(), setting), of_store(StudyStore(store or store_folder(), setting))
    return _union(committed[0], own[0], KEY), _union(committed[1], own[1], PROVENANCE_KEY)


def traced(setting: Setting, store: Path | None = None) -> pd.DataFrame:
    """The records of `known`, each with the `device` that trained its networks and when the first was `finished`.

    A distance or a barrier has two networks. If several kinds of processor trained them, `device` names all of them. It
    says "unknown" for a network without provenance.
    """
    values, provenance = known(setting, store)
    values = values.assign(row=range(len(values)))
    ends = values.assign(order=values["order"].str.split("-")).explode("order")
    ends.loc[ends.duplicated(["row", "order"]), "order"] += "-again"
    before = values[values["metric"].str.startswith("barrier_level")].assign(level=lambda rows: rows["level"] - 1)
    unpruned = pd.concat([before[before["level"] == 0], values[values["metric"].str.contains("pruning")]])
    others = pd.concat([before[before["level"] > 0], unpruned.assign(method="dense", rewind=0, level=0)])
    made = pd.concat([ends, others]).merge(provenance[[*PROVENANCE_KEY, "device", "finished"]], "left", PROVENANCE_KEY)
    by = made.fillna({"device": "unknown", "finished": ""}).groupby("row")
    devices = by["device"].agg(lambda names: " and ".join(sorted(set(names))))
    values = values.assign(device=devices.to_numpy(), finished=by["finished"].min().to_numpy())
    return values.drop(columns="row")


def kinds(devices: Iterable[str]) -> list[str]:
    """The kinds of processor that the column `device` of traced records names, each once, in order."""
    return sorted({kind for device in devices for kind in device.split(" and ")})


def _union(first: pd.DataFrame, second: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """The rows of both tables. If both have a row with the same key, the first table's."""
    if not len(first) or not len(second):
        return first if len(first) else second
    return in_order(pd.concat([first, second]).drop_duplicates(list(key)))


def studies(folder: Path) -> list[Setting]:
    """The settings of all studies in a run store or in a folder of records.

    Raises `StoreError` for a setting that cannot be read or does not match its folder's name.
    """
    return [_study(file) for file in _study_files(folder)]


def _for_each_study(folder: Path, do: Callable[[Setting], Done]) -> list[Done]:
    """Call `do` with every study of a run store or of a folder of records.

    A `StoreError` does not stop the other studies: one `StoreError` at the end has all messages.
    """
    done, errors = [], []
    for file in _study_files(folder):
        try:
            done.append(do(_study(file)))
        except StoreError as error:
            errors.append(str(error))
    if errors:
        raise StoreError("; ".join([*errors, *(["the other studies are done"] if done else [])]))
    return done


def _study_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/config.json"))


def _study(file: Path) -> Setting:
    try:
        setting = Setting.from_json(file.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from None
    if setting.name != file.parent.name:
        raise StoreError(
            f"{file} describes the study {setting.name}, but its folder has another name; restore the file"
        )
    return setting


def export_store(store: Path, destination: Path, keep_old: bool = False) -> list[str]:
    """Merge a run store's results into a folder of records. Returns a line on each study."""

    def add_finished(setting: Setting) -> str:
        made = of_store(StudyStore(store, setting))
        if not len(made[0]):
            return f"{setting.name}: no training is finished"
        return str(add(destination, setting, *made, keep_old))

    if not _study_files(store):
        raise StoreError(f"{store} holds no runs; make one with: lth run lenet_300_100 --profile smoke")
    return _for_each_study(store, add_finished)


def import_folder(source: Path, destination: Path, keep_old: bool = False) -> list[Path]:
    """Merge records exported on another machine into a folder of records. Returns each study's folder there."""

    def add_read(setting: Setting) -> Path:
        if not (source / setting.name / "records.csv").exists():
            raise StoreError(f"{source}: expected {setting.name}/records.csv; write it with: lth export")
        return add(destination, setting, *read(source, setting), keep_old)

    if not _study_files(source):
        raise StoreError(f"{source} holds no records; expected <study>/config.json and <study>/records.csv there")
    return _for_each_study(source, add_read)
