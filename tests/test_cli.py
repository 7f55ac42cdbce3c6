"""The command line: what it prints, where errors go, and its exit status."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from lth_study import SettingError, __version__, cli, data, records
from lth_study.__main__ import entry
from lth_study.data.parts import Dataset
from lth_study.presets import preset

SMOKE = preset("lenet_300_100", profile="smoke").setting
FEW = ("--rewinds", "0", "--levels", "1", "--orders", "1", "--figure", "stability")
"""Options that leave five trainings of the smoke profile: dense, imp, both controls, and imp again."""


class Result(NamedTuple):
    status: int
    out: str
    err: str


Lth = Callable[..., Result]


@pytest.fixture
def lth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embedded_mnist: Dataset, tmp_path: Path
) -> Lth:
    """The command `lth` in this process."""
    load = data.load

    def load_once(name: str, **shape: object) -> Dataset:
        return embedded_mnist if name == "mnist_embedded" else load(name, **shape)

    monkeypatch.setattr(data, "load", load_once)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["lth", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            entry()
        return Result(int(left.value.code or 0), *capsys.readouterr())

    return call


def smoke(command: str, *options: str) -> tuple[str, ...]:
    return (command, "lenet_300_100", "--profile", "smoke", *options)


def test_help_lists_the_commands(lth: Lth):
    result = lth("--help")
    assert result.status == 0
    assert all(command in result.out for command in ("run", "status", "export", "import"))


@pytest.mark.parametrize("command", ["run", "status", "export", "import"])
def test_every_command_has_help(command: str, lth: Lth):
    result = lth(command, "--help")
    assert result.status == 0
    assert "Usage" in result.out


def test_version_is_that_of_the_package(lth: Lth):
    assert lth("--version") == Result(0, f"{__version__}\n", "")


@pytest.mark.parametrize("command", ["run", "status"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet_9000",), "unknown network 'resnet_9000'; known: lenet_300_100"),
        (("lenet_300_100", "--recipe", "secret"), "unknown recipe 'secret'; known: standard"),
        (("lenet_300_100", "--profile", "huge"), "unknown profile 'huge'; known: "),
        (("lenet_300_100", "--figure", "nine"), "unknown figure 'nine'; known: "),
        (("lenet_300_100", "--rewinds", "0,many"), "rewinds: '0,many'"),
        (("lenet_300_100", "--rewinds", ""), "rewinds: ''"),
        (("lenet_300_100", "--rewinds", "-5"), "cannot rewind to iteration -5"),
        (("lenet_300_100", "--rewinds", "50000"), "cannot rewind to iteration 50000"),
        (("lenet_300_100", "--rewinds", "0,0"), "names a value twice"),
        (("lenet_300_100", "--replicates", "three"), "replicates: 'three'"),
        (("lenet_300_100", "--replicates", "0"), "replicates"),
        (("lenet_300_100", "--levels", "-1"), "levels"),
        (("lenet_300_100", "--orders", "0"), "orders"),
    ],
    ids=lambda value: " ".join(value[1:]) or value[0] if isinstance(value, tuple) else "",
)
def test_a_mistaken_option_is_one_line_on_stderr_and_status_2(
    command: str, arguments: tuple[str, ...], message: str, lth: Lth, tmp_path: Path
):
    status, out, err = lth(command, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("lth: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "store").exists()


def test_an_unknown_data_set_is_one_line_on_stderr_and_status_2(lth: Lth):
    status, _, err = lth(*smoke("run", "--dataset", "cats"))
    assert status == 2
    assert all(part in err for part in ("'cats'", "'mnist'", "'mnist_embedded'"))
    assert err.count("\n") == 1


def test_run_status_export_and_import_go_round(lth: Lth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "0 of 4 trainings recorded" in lth(*smoke("status", *FEW)).out

    ran = lth(*smoke("run", *FEW))
    assert (ran.status, ran.err) == (0, "")
    assert "[7/7]" in ran.out
    for file in (tmp_path / "store").rglob("distances.json"):  # as a run leaves it that is stopped before it measures
        file.unlink()
    status = lth(*smoke("status", *FEW)).out
    assert SMOKE.name in status
    assert "stability: 4 of 4 trainings recorded" in status
    assert "3 of 3 error barriers measured" in status
    assert "rewound to 0" in status

    again = lth(*smoke("run", *FEW))
    assert again == Result(0, "", "")

    exported = lth("export")
    assert exported.status == 0
    assert exported.out.strip() == str(tmp_path / "results" / SMOKE.name)
    assert {file.name for file in (tmp_path / "results" / SMOKE.name).iterdir()} == {
        "config.json",
        "records.csv",
        "provenance.csv",
    }
    before = {file: file.read_bytes() for file in (tmp_path / "results").rglob("*.*")}
    assert lth("export").status == 0
    assert {file: file.read_bytes() for file in (tmp_path / "results").rglob("*.*")} == before

    imported = lth("import", str(tmp_path / "results"), str(tmp_path / "theirs"))
    assert imported == Result(0, f"{tmp_path / 'theirs' / SMOKE.name}\n", "")
    for mine, theirs in zip(
        records.read(tmp_path / "results", SMOKE), records.read(tmp_path / "theirs", SMOKE), strict=True
    ):
        pd.testing.assert_frame_equal(mine, theirs)

    monkeypatch.setenv("LTH_STORE", str(tmp_path / "empty"))
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "theirs"))
    assert "4 of 4 trainings recorded" in lth(*smoke("status", *FEW)).out
    assert lth(*smoke("run", *FEW)).status == 0
    assert not (tmp_path / "empty").exists()

    file = tmp_path / "theirs" / SMOKE.name / "records.csv"
    lines = file.read_text().splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + ",1.5"
    file.write_text("\n".join(lines) + "\n")
    conflict = lth("import", str(tmp_path / "results"))
    assert conflict.status == 2
    assert conflict.err.startswith(f"lth: {SMOKE.name}: 1 of ")
    assert conflict.err.count("\n") == 1


def test_status_tells_what_diverged_from_what_is_recorded(lth: Lth):
    wild = smoke("run", "--figure", "stability", "--set", "learning_rate=1e38")
    assert lth(*wild).status == 0
    status = lth("status", *wild[1:]).out
    assert "stability: 0 of 14 trainings recorded; 14 diverged, or build on one that did\n" in status
    assert "rewound to 20: 0 of 6" in status


def test_a_run_out_of_time_exits_with_status_3_and_keeps_a_checkpoint(lth: Lth, tmp_path: Path):
    status, out, err = lth(*smoke("run", "--time-limit", "0.2", "--workers", "1"))
    assert status == 3
    assert "the same command goes on from here" in out
    assert err == ""
    assert list((tmp_path / "store").rglob("checkpoint.safetensors"))


@pytest.mark.parametrize("command", [("export",), ("import", "nowhere")])
def test_nothing_to_export_or_import_is_status_2(command: tuple[str, ...], lth: Lth, tmp_path: Path):
    status, out, err = lth(*command)
    assert status == 2
    assert out == ""
    assert "holds no" in err
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "slow"),
    [(["--help"], "torch pandas pydantic"), (["status", "lenet_300_100"], "torch")],
)
def test_help_and_status_do_not_wait_for_what_they_do_not_need(arguments: list[str], slow: str):
    assert not imported(arguments) & set(slow.split())


def test_a_study_that_is_finished_does_not_wait_for_torch(lth: Lth):
    assert lth(*smoke("run", *FEW)).status == 0
    assert "torch" not in imported(smoke("run", *FEW))


def imported(arguments: Sequence[str]) -> set[str]:
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


def test_any_setting_can_be_given(lth: Lth):
    status, out, _ = lth(*smoke("status"), "--set", "weight_decay=0.5", "--set", "rewind_optimizer=fresh")
    assert status == 0
    expected = SMOKE.updated(weight_decay=0.5, rewind_optimizer="fresh")
    assert expected.name in out


def test_status_says_that_a_study_is_recorded_with_other_images(lth: Lth):
    assert lth(*smoke("run", *FEW)).status == 0
    out = lth(*smoke("status", "--dataset", "mnist")).out
    assert "0 of" in out
    assert "also trained on mnist_embedded: lth status ... --dataset mnist_embedded" in out
    assert "also trained" not in lth(*smoke("status")).out


def test_levels_rewinds_and_methods_that_are_given_are_those_of_every_figure(lth: Lth):
    options = ("--profile", "laptop", "--rewinds", "0,100", "--levels", "2", "--replicates", "1")
    out = lth("status", "resnet20", *options).out.splitlines()
    assert "accuracy: 0 of 13 trainings recorded" in out  # dense; at each k two levels with three methods
    alone = lth("status", "resnet20", *options, "--set", 'methods=["imp"]').out.splitlines()
    assert "accuracy: 0 of 5 trainings recorded" in alone
    assert lth("status", "resnet50", "--levels", "3").status == 0  # though its preset compares the fourth


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("weight_decay", "--set: 'weight_decay' gives no value; expected NAME=VALUE"),
        ("weight_dekay=1", "unknown setting 'weight_dekay'"),
        ("recipe=low", "--set: recipe is an argument or option of its own"),
        ("weight_decay=-1", "weight_decay: -1 is not valid"),
        ("precision=bfloat16", "precision: 'bfloat16' is not a setting of lenet_300_100"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(given: str, message: str, lth: Lth):
    status, out, err = lth(*smoke("status"), "--set", given)
    assert (status, out) == (2, "")
    assert err.startswith(f"lth: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("setting", ["levels=3", "rewinds=[0]", "orders=2", "dataset=mnist", "recipe=low"])
def test_what_has_an_option_of_its_own_is_not_taken_as_a_setting(setting: str):
    """Which would change it in some figures only."""
    with pytest.raises(SettingError, match=f"--set: {setting.split('=')[0]} is an argument or option of its own"):
        cli._setting(setting)
    assert cli._setting("pieces=4") == ("pieces", 4)
