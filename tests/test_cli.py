"""The command line: what it prints, where errors go, and its exit status."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import Lth

from lth_study import SettingError, __version__, preset, run
from lth_study.commands import setting_of
from lth_study.records import store_folder

SMOKE = preset("lenet_300_100", profile="smoke").setting
OF_SMOKE = ("lenet_300_100", "--profile", "smoke")
FEW = (*OF_SMOKE, "--rewinds", "0", "--levels", "1", "--orders", "1", "--figure", "stability")
"""Options that leave four trainings of the smoke profile: dense, imp and both controls."""


def test_every_command_is_listed_and_has_help_and_the_version_is_the_packages(lth: Lth):
    listed = lth("--help")
    for command in ("run", "status", "plan", "agenda", "export", "import", "tickets"):
        own = lth(command, "--help")
        assert command in listed.out
        assert (own.status, "Usage" in own.out) == (0, True)
    assert lth("--version") == (0, f"{__version__}\n", "")


REFUSED = {
    "resnet_9000": "unknown network 'resnet_9000'; known: lenet_300_100",
    "lenet_300_100 --rewinds 0,many": "rewinds: '0,many'",
    "lenet_300_100 --set weight_decay": "--set: 'weight_decay' gives no value; expected NAME=VALUE",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_a_mistaken_option_is_one_line_on_stderr_and_status_2(arguments: str, lth: Lth, tmp_path: Path):
    """Presets, settings and extents refuse the values of all others."""
    for command in ("run", "status"):
        status, out, err = lth(command, *arguments.split())
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"lth: {REFUSED[arguments]}")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("setting", ["levels=3", "rewinds=[0]", "orders=2", "dataset=mnist", "recipe=low"])
def test_what_has_an_option_of_its_own_is_not_taken_as_a_setting(setting: str):
    with pytest.raises(SettingError, match=f"--set: {setting.split('=')[0]} is an argument or option of its own"):
        setting_of(setting)
    assert setting_of("pieces=4") == ("pieces", 4)


def test_a_bar_is_drawn_in_a_terminal_and_is_lines_in_a_file(
    images_read_once: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    study = preset("lenet_300_100", profile="smoke").only("accuracy")
    run(study.updated(levels=0), progress="bar")
    out, err = capsys.readouterr()
    assert (out.count("\n"), out.partition(": ")[0], err) == (1, "[1/1] replicate 1, dense", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(study.updated(levels=0, replicates=2), progress="bar")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.split("\r")[-1].startswith("100%")


def test_run_status_export_and_import_go_round(lth: Lth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each command finds what the others left, says so, and writes nothing twice."""
    assert "0 of 4 trainings recorded\n  0 of 2 distances measured\n" in lth("status", *FEW).out
    assert not (tmp_path / "store").exists()

    ran = lth("run", *FEW)
    assert (ran.status, ran.err) == (0, "")
    assert "[7/7]" in ran.out  # four trainings and three barriers
    for file in (tmp_path / "store").rglob("distances.json"):  # as a run leaves it that is stopped before it measures
        file.unlink()
    before = contents(tmp_path / "store")
    status = lth("status", *FEW).out
    assert SMOKE.name in status
    assert "stability: 4 of 4 trainings recorded\n  0 of 2 distances measured\n  3 of 3 error barriers" in status
    assert "rewound to 0: 3 of 3" in status  # the dense network is rewound to none
    assert contents(tmp_path / "store") == before
    assert lth("run", *FEW) == (0, "", "")
    assert "  2 of 2 distances measured\n" in lth("status", *FEW).out
    assert lth("run", *FEW) == (0, "", "")

    assert lth("export") == (0, f"{tmp_path / 'results' / SMOKE.name}\n", "")
    before = contents(tmp_path / "results")
    assert set(before) == {"sums.sha256", "config.json", "records.csv", "provenance.csv"}
    assert lth("export").status == 0
    assert contents(tmp_path / "results") == before
    theirs = tmp_path / "theirs"
    assert lth("import", str(tmp_path / "results"), str(theirs)) == (0, f"{theirs / SMOKE.name}\n", "")
    assert contents(theirs) == before

    monkeypatch.setenv("LTH_STORE", str(tmp_path / "empty"))
    monkeypatch.setenv("LTH_RESULTS", str(theirs))
    assert "4 of 4 trainings recorded" in lth("status", *FEW).out
    assert lth("run", *FEW).status == 0
    assert not (tmp_path / "empty").exists()

    file = theirs / SMOKE.name / "records.csv"
    table = pd.read_csv(file, dtype={"order": str})
    table.assign(value=table["value"].where(table.index > 0, 1.5)).to_csv(file, index=False)
    file.with_name("sums.sha256").unlink()
    conflict = lth("import", str(tmp_path / "results"))
    assert (conflict.status, conflict.err.count("\n")) == (2, 1)
    assert conflict.err.startswith(f"lth: {SMOKE.name}: 1 of ")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.rglob("*.*") if file.name != ".lock"}


def test_status_tells_what_diverged_from_what_is_recorded(lth: Lth):
    wild = (*OF_SMOKE, "--figure", "stability", "--set", "learning_rate=1e38")
    assert lth("run", *wild).status == 0
    status = lth("status", *wild).out
    assert "stability: 0 of 14 trainings recorded; 14 diverged, or build on one that did\n" in status
    assert "rewound to 20: 0 of 6" in status
    assert "measured" not in status  # none of the distances is possible


@pytest.mark.filterwarnings("ignore:CIFAR-10 is not in:UserWarning")
def test_a_run_without_a_stand_in_fails_where_the_data_set_is_missing(lth: Lth):
    failed = lth("run", "resnet20", "--profile", "laptop", "--no-stand-in")
    assert failed.status == 2
    assert "dataset: cifar10 is missing; put it into the folder LTH_DATA" in failed.err
    assert list(store_folder().rglob("*.safetensors")) == []


def test_a_run_out_of_time_exits_with_status_3_and_keeps_a_checkpoint(lth: Lth, tmp_path: Path):
    status, out, err = lth("run", *OF_SMOKE, "--time-limit", "0.2", "--workers", "1")
    assert (status, err) == (3, "")
    assert "the same command goes on from here" in out
    assert list((tmp_path / "store").rglob("checkpoint.safetensors"))


@pytest.mark.parametrize("command", ["export", "import nowhere"])
def test_nothing_to_export_or_import_is_status_2(command: str, lth: Lth, tmp_path: Path):
    status, out, err = lth(*command.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "holds no" in err
    assert not (tmp_path / "results").exists()


def imported(*arguments: str) -> set[str]:
    """The modules that a process of the command `lth` imports."""
    script = (
        "import sys; from lth_study.__main__ import entry\n"
        "try: entry()\n"
        "except SystemExit as left: assert not left.code\n"
        "print('\\n', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_commands_do_not_wait_for_what_they_do_not_need(lth: Lth):
    assert not imported("--help") & {"torch", "pandas", "pydantic"}
    assert "torch" not in imported("status", "lenet_300_100")
    assert lth("run", *FEW).status == 0
    assert "torch" not in imported("run", *FEW)  # everything is recorded


def test_status_says_that_a_study_is_recorded_with_other_images(lth: Lth):
    assert lth("run", *FEW).status == 0
    out = lth("status", *OF_SMOKE, "--dataset", "mnist").out
    assert "0 of" in out
    assert "also trained on mnist_embedded: lth status ... --dataset mnist_embedded" in out
    assert "also trained" not in lth("status", *OF_SMOKE).out


def test_status_counts_every_figure_by_itself(lth: Lth):
    # dense; of stability two levels of IMP, three orders and four random prunings more at each k, and again
    counts = {"stability": 1 + 2 * (2 + 3 + 4) + 1, "accuracy": 1 + 2 * 2 * 3}
    given = ("--profile", "laptop", "--rewinds", "0,100", "--levels", "2", "--replicates", "1")
    out = lth("status", "resnet20", *given).out
    assert [line for line in out.splitlines() if "recorded" in line] == [
        f"{figure}: 0 of {count} trainings recorded" for figure, count in counts.items()
    ]
