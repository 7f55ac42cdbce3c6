"""Records: tables that come back as they were written, merged without loss, and traced to their devices."""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Place, provenance_of, records_of
from test_plan import COMPLETE

from lth_study import preset, records, tables
from lth_study.files import StoreError, write_json
from lth_study.records import COLUMNS, PROVENANCE, add, import_folder, merge, read, results_folder, traced, write
from lth_study.settings import Setting
from lth_study.store import StudyStore, Training

SETTING = preset("lenet_300_100", profile="smoke").setting
OTHER = SETTING.updated(learning_rate=1e-4)
MADE = provenance_of([("dense", 0, 1, 0, "0"), ("imp", 0, 1, 1, "0"), *(("imp", 0, 1, 2, o) for o in ("0", "0-again"))])


def table(values: Iterable[tuple[Place, str, float]], setting: Setting = SETTING) -> pd.DataFrame:
    return records_of(setting, values)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A folder that holds the complete records."""
    write(tmp_path / "ours", SETTING, table(COMPLETE), MADE)
    return tmp_path / "ours"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that holds the same records of two studies."""
    for setting in (SETTING, OTHER):
        write(tmp_path / "theirs", setting, table(COMPLETE, setting), MADE)
    return tmp_path / "theirs"


# Writing and reading


def test_records_come_back_as_they_were_written_in_the_columns_of_the_contract(ours: Path):
    folder = ours / SETTING.name
    assert {file.name for file in folder.iterdir()} == {"sums.sha256", "config.json", "records.csv", "provenance.csv"}
    header = (folder / "records.csv").read_text().splitlines()[0]
    assert header == "digest,network,recipe,profile,dataset,method,rewind,replicate,level,density,order,metric,value"
    back, made = read(ours, SETTING)
    pd.testing.assert_frame_equal(back, table(COMPLETE), check_dtype=False, rtol=1e-6)
    pd.testing.assert_frame_equal(made, MADE, check_dtype=False)
    assert all(isinstance(order, str) for order in (*back["order"], *made["order"]))


@pytest.mark.parametrize("name", ["records.csv", "provenance.csv"])
def test_a_digit_that_changed_in_a_table_is_noticed_unless_its_checksums_are_gone(name: str, ours: Path):
    folder = ours / SETTING.name
    sums = (folder / "sums.sha256").read_text()
    assert f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" in sums
    lines = (folder / name).read_text().splitlines(keepends=True)
    cells = lines[1].split(",")
    place = cells.index("120") if name == "provenance.csv" else -1
    cells[place] = "7" + cells[place][1:]
    (folder / name).write_text("".join([lines[0], ",".join(cells), *lines[2:]]))
    with pytest.raises(StoreError, match=r"is not as it was written: .* restore it, or delete sums.sha256"):
        read(ours, SETTING)
    (folder / "sums.sha256").write_text("")
    with pytest.raises(StoreError, match=r"is not as it was written"):
        read(ours, SETTING)
    (folder / "sums.sha256").unlink()  # as in folders from before there were any
    read(ours, SETTING)


@pytest.mark.parametrize("table_read", ["records.csv", "provenance.csv"])
def test_what_another_process_writes_while_a_table_is_read_is_read_whole(
    table_read: str, ours: Path, monkeypatch: pytest.MonkeyPatch
):
    longer, made = table([*COMPLETE, (("dense", 0, 9, 0, "0"), "test_accuracy", 97.0)]), MADE.assign(seconds=7.0)
    really, written = tables._read_csv, []

    def overtaken(file: Path, *expected: Any) -> pd.DataFrame:
        found = really(file, *expected)
        if file.name == table_read and not written:
            written.append(write(ours, SETTING, longer, made))
        return found

    monkeypatch.setattr(tables, "_read_csv", overtaken)
    back, provenance = read(ours, SETTING)
    assert len(back) == len(longer)
    assert set(provenance["seconds"]) == {7.0}


def test_the_description_of_a_study_stays_as_it_was_written_first(ours: Path):
    before = contents(ours)
    earlier = json.dumps(json.loads(SETTING.to_json()) | {"rewinds": [0], "replicates": [7]})
    (ours / SETTING.name / "config.json").write_text(earlier)
    write(ours, SETTING, *read(ours, SETTING))
    assert contents(ours) == before | {f"{SETTING.name}/config.json": earlier.encode()}


@pytest.mark.parametrize("text", ["0123456789012345", "12345678e9012345"])
def test_text_that_looks_like_a_number_stays_text(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Setting, "digest", lambda _: text)
    write(tmp_path, SETTING, table(COMPLETE), MADE.assign(data_fingerprint=text))
    back, made = read(tmp_path, SETTING)
    assert set(back["digest"]) == set(made["data_fingerprint"]) == {text}
    assert list(made["order"]) == ["0", "0", "0", "0-again"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text[:-1], "cut off in its last line"),
        (lambda text: text[: text.rindex(",") - 3] + "\n", "an empty cell"),
        (lambda text: text.replace(",imp,", ",magic,", 1), "an unknown method"),
        (lambda text: text.replace(",0-1,", ",0-,", 1), "no data order"),
        (lambda text: text + text.splitlines()[-1] + "\n", "what another row says"),
        (lambda text: text.replace("\n", "\n<<<<<<< ours\n", 1), "cannot be read"),
        (lambda text: text.replace(SETTING.digest(), "0123456789ab", 1), "records of other studies: 0123456789ab"),
        (lambda text: text[: text.rindex(",") + 1] + "much\n", "cannot be read: .*much"),
        (lambda text: "method,value\nimp,97\n", "has the columns"),
    ],
    ids=["cut", "cut in a row", "method", "order", "twice", "conflict", "digest", "no number", "columns"],
)
def test_records_that_were_altered_or_cut_off_are_refused(harm: Callable[[str], str], said: str, ours: Path):
    file = ours / SETTING.name / "records.csv"
    file.write_text(harm(file.read_text()))
    with pytest.raises(StoreError, match=said) as raised:
        read(ours, SETTING)
    assert str(file) in str(raised.value)


def test_records_are_there_only_when_everything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever table is written last, an interruption before it leaves a folder that reads as empty."""
    written: list[Path] = []
    really = tables.write_atomic

    def killed_at_the_last(path: Path, content: bytes) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        really(path, content)

    monkeypatch.setattr(tables, "write_atomic", killed_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, SETTING, table(COMPLETE), MADE)
    assert [(len(part), list(part.columns)) for part in read(tmp_path, SETTING)] == [(0, COLUMNS), (0, PROVENANCE)]


def test_records_from_before_workers_were_recorded_are_read_and_added_to(tmp_path: Path):
    write(tmp_path, SETTING, table(COMPLETE[:3]), MADE[:2].drop(columns="workers"))
    assert read(tmp_path, SETTING)[1]["workers"].isna().all()
    add(tmp_path, SETTING, table(COMPLETE[3:]), MADE[2:])
    file = tmp_path / SETTING.name / "provenance.csv"
    assert [line.rsplit(",", 1)[1] for line in file.read_text().splitlines()] == ["workers", "", "", "2", "2"]
    assert read(tmp_path, SETTING)[1]["workers"].tolist() == [pd.NA, pd.NA, 2, 2]


# Adding and merging


def test_adding_keeps_what_is_there_and_the_same_again_changes_nothing(ours: Path, tmp_path: Path):
    before = contents(ours / SETTING.name)
    add(ours, SETTING, table(COMPLETE), MADE)
    add(ours, SETTING, *read(ours, SETTING))
    assert contents(ours / SETTING.name) == before
    add(tmp_path / "parts", SETTING, table([]), provenance_of([]))
    add(tmp_path / "parts", SETTING, table(COMPLETE[:3]), MADE[:2])
    add(tmp_path / "parts", SETTING, table(COMPLETE[3:]), MADE[2:])
    assert contents(tmp_path / "parts" / SETTING.name) == before


def test_merging_is_idempotent_and_does_not_depend_on_who_comes_first():
    a, b = table(COMPLETE[:5]), table(COMPLETE[2:])
    merged = merge(a, b)
    pd.testing.assert_frame_equal(merged, table(COMPLETE))
    pd.testing.assert_frame_equal(merge(merged, b), merged)
    pd.testing.assert_frame_equal(merge(b, a), merged)
    for one, other in ((a, table([])), (table([]), a)):
        pd.testing.assert_frame_equal(merge(one, other), a, check_dtype=False)


def test_a_conflict_is_refused_names_the_first_value_and_changes_nothing(ours: Path):
    before = contents(ours / SETTING.name)
    other = table(COMPLETE)
    other.loc[[4, 5], "value"] = [42.0, 0.5]  # a noise floor of zero has no relative error
    with pytest.raises(StoreError) as raised:
        add(ours, SETTING, other, MADE)
    message = str(raised.value)
    assert message.startswith(f"{SETTING.name}: 2 of {len(COMPLETE)} values")
    named = ("test_accuracy", "imp", "replicate 1", "rewind 0", "level 2", "97.75", "42")
    assert [part for part in named if part not in message] == []
    assert contents(ours / SETTING.name) == before


def test_a_conflict_can_be_settled_by_keeping_what_is_recorded(tmp_path: Path, theirs: Path):
    add(tmp_path / "ours", SETTING, table(COMPLETE[:4]), MADE)
    higher = [(*key, value + 1.0) for *key, value in COMPLETE]
    add(tmp_path / "ours", SETTING, table(higher), MADE, keep_old=True)
    expected = table([*COMPLETE[:4], *higher[4:]])
    pd.testing.assert_frame_equal(read(tmp_path / "ours", SETTING)[0], expected, check_dtype=False)
    before = contents(tmp_path / "ours" / SETTING.name)
    import_folder(theirs, tmp_path / "ours", keep_old=True)
    assert contents(tmp_path / "ours" / SETTING.name) == before


def test_values_rounded_in_writing_do_not_conflict(tmp_path: Path):
    rows = [(("imp", 0, 1, 2, f"0-{n}"), "l2_data_order", 1 / n) for n in range(1, 400)]
    for _ in range(2):
        add(tmp_path, SETTING, table(rows), MADE)
    assert len(read(tmp_path, SETTING)[0]) == len(rows)


def test_records_of_other_images_are_not_added(ours: Path):
    before = contents(ours / SETTING.name)
    with pytest.raises(StoreError, match=r"other images .*0123456789abcdef, fedcba9876543210"):
        add(ours, SETTING, table(COMPLETE), MADE.assign(data_fingerprint="fedcba9876543210"), keep_old=True)
    assert contents(ours / SETTING.name) == before


def test_what_several_add_to_one_folder_at_once_is_all_there(tmp_path: Path):
    def add_level(level: int) -> None:
        where = ("imp", 0, 1, level, "0")
        add(tmp_path, SETTING, table([(where, "test_accuracy", float(level))]), provenance_of([where]))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_level, range(1, 33)))
    assert [sorted(part["level"]) for part in read(tmp_path, SETTING)] == [list(range(1, 33))] * 2


def test_a_folder_of_records_that_cannot_be_locked_is_named(tmp_path: Path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StoreError, match=rf"cannot write into the folder {tmp_path}: .*directory"):
        add(tmp_path, SETTING, table(COMPLETE), MADE)


# Importing


def test_importing_a_folder_gives_the_same_records(tmp_path: Path, theirs: Path):
    for _ in range(2):
        written = import_folder(theirs, tmp_path / "mine")
        assert {folder.name for folder in written} == {SETTING.name, OTHER.name}
        found = contents(tmp_path / "mine")
        assert {name: found[name] for name in contents(theirs)} == contents(theirs)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "cannot be read: not a setting in JSON"),
        ("[]", "cannot be read: not a setting: expected a JSON object"),
        ('{"network": "lenet_300_100"}', "cannot be read: recipe: .*required"),
        (OTHER.updated(iterations=9).to_json(), "describes the study .*, but its folder has another name"),
        (OTHER.to_json().replace('"iterations": 120', '"iterations": 0'), "cannot be read: iterations: 0 is not valid"),
    ],
)
def test_a_study_that_cannot_be_read_keeps_no_other_from_being_imported(
    text: str, fault: str, tmp_path: Path, theirs: Path
):
    (theirs / OTHER.name / "config.json").write_text(text)
    with pytest.raises(StoreError, match=rf"{OTHER.name}/config\.json {fault}.*; the other studies are done"):
        import_folder(theirs, tmp_path / "mine")
    assert [folder.name for folder in (tmp_path / "mine").iterdir() if folder.is_dir()] == [SETTING.name]
    assert len(read(tmp_path / "mine", SETTING)[0]) == len(COMPLETE)


def test_importing_an_empty_folder_or_none_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nowhere"):
        with pytest.raises(StoreError, match=f"{source} holds no records"):
            import_folder(tmp_path / source, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


# Which device made a value, and when

DEVICES: dict[Place, tuple[str, str]] = {
    ("dense", 0, 1, 0, "0"): ("A", "2026-01-05T00:00Z"),
    ("imp", 20, 1, 2, "0"): ("A", "2026-01-06T00:00Z"),
    ("imp", 20, 1, 2, "0-again"): ("B", "2026-01-04T00:00Z"),
    ("imp", 20, 1, 2, "1"): ("B", "2026-01-08T00:00Z"),
    ("imp", 20, 1, 2, "2"): ("B", "2026-01-07T00:00Z"),
    ("dense", 0, 2, 0, "0"): ("B", "2026-02-05T00:00Z"),
    ("imp", 20, 2, 2, "0"): ("A", "2026-02-06T00:00Z"),
}
"""Training -> its device, and when it was finished."""
VALUES: list[tuple[Place, str, str, str]] = [
    (("dense", 0, 1, 0, "0"), "test_accuracy", "A", "2026-01-05T00:00Z"),
    (("imp", 20, 1, 2, "1"), "test_accuracy", "B", "2026-01-08T00:00Z"),
    (("imp", 20, 1, 2, "1"), "diverged", "B", "2026-01-08T00:00Z"),
    (("imp", 20, 1, 2, "0-1"), "l2_data_order", "A and B", "2026-01-06T00:00Z"),
    (("imp", 20, 1, 2, "1-2"), "l2_data_order", "B", "2026-01-07T00:00Z"),
    (("imp", 20, 1, 2, "0"), "l2_pruning", "A", "2026-01-05T00:00Z"),
    (("imp", 20, 2, 2, "0"), "angle_pruning", "A and B", "2026-02-05T00:00Z"),
    (("imp", 20, 1, 2, "0-0"), "l2_noise_floor", "A and B", "2026-01-04T00:00Z"),
    (("imp", 20, 1, 2, "0-1"), "barrier_data_order_test_mean", "A and B", "2026-01-06T00:00Z"),
    (("imp", 20, 2, 2, "0"), "barrier_pruning_test_line", "A and B", "2026-02-05T00:00Z"),
    (("imp", 20, 1, 2, "0"), "barrier_level_masked_test_mean", "A and unknown", ""),  # its level 1 is not traced
    (("imp", 20, 2, 1, "0"), "barrier_level_masked_test_mean", "B and unknown", ""),  # before level 1: the dense run
    (("imp", 20, 1, 1, "0"), "test_accuracy", "unknown", ""),
    (("imp", 20, 1, 1, "0"), "l2_pruning", "A and unknown", ""),
    (("imp", 20, 1, 2, "1-3"), "l2_data_order", "B and unknown", ""),
    (("imp", 20, 2, 2, "0-0"), "l2_noise_floor", "A and unknown", ""),
    (("random_pruning", 20, 1, 2, "0-1"), "l2_data_order", "unknown", ""),
]
"""Value -> the devices of its networks, and when the first was finished."""


def test_a_value_has_the_devices_of_its_networks_and_when_the_first_was_finished():
    devices, finished = zip(*DEVICES.values(), strict=True)
    made = provenance_of(DEVICES, device=devices, finished=finished)
    values = [(place, metric, float(number)) for number, (place, metric, *_) in enumerate(VALUES)]
    write(results_folder(), SETTING, table(values), made)
    found = traced(SETTING)
    assert list(found.columns) == [*COLUMNS, "device", "finished"]
    assert found["value"].tolist() == [float(number) for number in range(len(VALUES))]
    assert list(zip(found["device"], found["finished"], strict=True)) == [trace[2:] for trace in VALUES]


@pytest.mark.parametrize("values", [COMPLETE, []])
def test_values_without_any_provenance_are_of_an_unknown_device(values: list[tuple[Place, str, float]]):
    write(results_folder(), SETTING, table(values), provenance_of([]))
    found = traced(SETTING)
    assert found[["device", "finished"]].to_numpy().tolist() == [["unknown", ""]] * len(values)
    assert list(found.columns) == [*COLUMNS, "device", "finished"]


def test_committed_values_have_the_committed_device_and_a_runs_own_have_its(tmp_path: Path):
    """A training that both have was committed with the value that is given, and so was its device."""
    places = [("dense", 0, 1, 0, "0"), ("imp", 0, 1, 1, "0")]
    write(results_folder(), SETTING, table((p, "test_accuracy", 90.0) for p in places), provenance_of(places))
    for level in (1, 2):
        training = Training(1, "imp", 0, level, 0)
        made = dict.fromkeys(PROVENANCE[5:], "") | {"device": "another", "finished": "2026-03-01T00:00Z", "workers": 1}
        result = {"metrics": {"test_accuracy": 80.0}, "density": 0.8**level, "diverged_at": None, "provenance": made}
        folder = StudyStore(tmp_path / "store", SETTING).saves(training).folder
        write_json(folder / "result.json", result | {"training": vars(training)})
    assert traced(SETTING)[["level", "value", "device", "finished"]].to_numpy().tolist() == [
        [0, 90.0, "a processor", "2026-01-02T03:04Z"],
        [1, 90.0, "a processor", "2026-01-02T03:04Z"],
        [2, 80.0, "another", "2026-03-01T00:00Z"],
    ]


def test_folders_are_those_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert (results_folder(), records.store_folder()) == (tmp_path / "results", tmp_path / "store")
    monkeypatch.delenv("LTH_RESULTS")
    monkeypatch.delenv("LTH_STORE")
    own = records.project_folder()
    assert (results_folder(), records.store_folder()) == (own / "results", own / "runs")
