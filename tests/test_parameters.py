"""`configure`: the parameters of a notebook, checked before anything runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lth_study import SettingError, Study, configure, preset
from lth_study.commands import setting_of, study_of
from lth_study.data import data_root
from lth_study.notebook import given_parameters, mapping_of

LENET, SMOKE = preset("lenet_300_100"), preset("lenet_300_100", profile="smoke")
FIRST_CELL = {"profile": "smoke", "replicates": 2, "rewinds": [0, 5], "__name__": "__main__", "_i1": ""}
CONFIGURED: dict[str, tuple[dict[str, Any], dict[str, Any], Study]] = {
    "nothing is at the paper's scale": ({"data_folder": None}, {"network": "lenet_300_100"}, LENET),
    "parameters": (FIRST_CELL, {"network": "lenet_300_100"}, SMOKE.updated(replicates=(1, 2), rewinds=(0, 5))),
    "settings of the notebook's own": (
        {"profile": "smoke"},
        {"network": "lenet_300_100", "rewinds": [7], "levels": 1},
        SMOKE.updated(rewinds=(7,), levels=1),
    ),
    "network and recipe": (
        {"network": "vgg19", "recipe": "warmup", "profile": "laptop", "rewinds": None, "levels": 3},
        {},
        preset("vgg19", "warmup", "laptop").updated(levels=3),
    ),
    "one figure": (
        {"profile": "laptop", "rewinds": [0, 100, 200]},
        {"network": "resnet20", "figure": "accuracy"},
        preset("resnet20", profile="laptop").only("accuracy").updated(rewinds=(0, 100, 200)),
    ),
}


@pytest.mark.parametrize(("given", "own", "study"), CONFIGURED.values(), ids=CONFIGURED)
def test_a_notebooks_parameters_become_a_study(given, own, study):
    before = data_root()
    assert configure(given, **own) == (study, {})
    assert data_root() == before


def test_a_notebook_can_say_what_to_do_about_missing_records():
    assert configure({"missing": "error"}, network="lenet_300_100")[1] == {"missing": "error"}
    assert configure({"missing": "train"}, network="lenet_300_100")[1] == {"missing": "train", "progress": "bar"}


UNKNOWN = "unknown parameter "


@pytest.mark.parametrize(
    ("given", "own", "said"),
    [
        ({"missing": "ignore"}, {}, "missing: 'ignore'.*'train' or 'error'"),
        ({"replicate": 2}, {}, UNKNOWN + "'replicate'; valid parameters: recipe, profile, missing, .*replicates"),
        ({"network": "vgg19"}, {"recipe": "low"}, UNKNOWN + "'network'; valid parameters: profile"),
        ({"rewinds": [5]}, {"rewinds": [0]}, UNKNOWN + "'rewinds'"),
        ({}, {"networks": ["resnet50", "vgg19"]}, "'lenet_300_100' is not one of this notebook's: resnet50, vgg19$"),
        ({"levels": 3}, {"without": ["levels"]}, UNKNOWN + "'levels'"),  # it means nothing to this notebook
    ],
)
def test_other_parameters_are_refused_with_the_valid_ones_listed(given, own, said):
    with pytest.raises(SettingError, match=said):
        configure({"profile": "smoke"} | given, network="lenet_300_100", **own)


CELLS = ["", "levels = 1", "# Parameters\nlevels, *_ = [2]\nif True:\n    replicates: int = 3", "def (", "study = 5"]


def test_where_no_cells_are_known_all_values_but_those_of_startup_files_are_parameters():
    script = {"profile": "smoke", "Path": Path, "pytest": pytest, "read": json.loads}
    shell = SimpleNamespace(user_ns_hidden={"In": [""], "exit": 1, "environ": 2, "profile": "none"})
    nbval = script | shell.user_ns_hidden | {"_ih": [""], "get_ipython": lambda: shell, "profile": "smoke"}
    for namespace in (script, nbval):
        assert configure(namespace, network="lenet_300_100")[0] == SMOKE
        with pytest.raises(SettingError, match="unknown parameter 'profil';"):
            configure(namespace | {"profil": 1}, network="lenet_300_100")


def test_only_what_cells_before_this_one_assign_is_a_parameter():
    startup = {"Path": Path, "environ": os.environ, "rewinds": [1, 2], "study": "mine", "profile": "none", "mine": 3}
    given = {"levels": 2, "replicates": 3}
    assert given_parameters(startup | given | {"_ih": CELLS}, ["levels", "replicates", "rewinds"]) == given
    with pytest.raises(SettingError, match="unknown parameter 'replicates'; valid parameters: levels"):
        given_parameters(startup | given | {"_ih": CELLS}, ["levels"])


AS_WRITTEN = [
    ("rewinds", "0,100", (0, 100)),
    ("rewinds", "[0, 100]", (0, 100)),
    ("rewinds", "0 , 100", (0, 100)),
    ("rewinds", 7, (7,)),
    ("rewinds", "7", (7,)),
    ("rewinds", ["1e2", 3.0], (100, 3)),
    ("replicates", "1,2", (1, 2)),
    ("replicates", "2", (1, 2)),
    ("replicates", 2.0, (1, 2)),
    ("replicates", "[2]", (2,)),
    ("methods", "imp", ("imp",)),
    ("methods", "imp,random_reinit", ("imp", "random_reinit")),
    ("methods", "['imp', 'random_reinit']", ("imp", "random_reinit")),
    ("compared_levels", "all", "all"),
    ("compared_levels", "1, 2", (1, 2)),
    ("compared_levels", "[]", ()),
    ("levels", 2.0, 2),
    ("orders", "3", 3),
]


@pytest.mark.parametrize(("name", "given", "expected"), AS_WRITTEN, ids=map(str, AS_WRITTEN))
def test_values_may_be_written_as_command_lines_give_them(name, given, expected):
    study, _ = configure({"profile": "smoke", name: given}, network="lenet_300_100")
    assert getattr(study.extent, name) == expected
    assert study == SMOKE.updated(**{name: expected})
    if isinstance(given, str) and name not in ("methods", "compared_levels"):
        options = {"rewinds": None, "levels": None, "replicates": None, "orders": None} | {name: given}
        asked = study_of("lenet_300_100", "standard", "smoke", None, **options, dataset=None, settings=None)
        assert asked == SMOKE.updated(**{name: expected})


def test_settings_may_be_written_as_command_lines_give_them():
    given = {"learning_rate": "1e-3", "augment": "true", "drops": "20,3e1", "final_learning_rate": "None", "width": 2.0}
    study, _ = configure({"profile": "laptop", "network": "resnet20"} | given)
    setting = study.setting
    assert (setting.learning_rate, setting.augment, setting.drops, setting.width) == (0.001, True, (20, 30), 2.0)
    assert dict(map(setting_of, ("learning_rate=1e-3", "drops=20,30", "drop_factor=0.5", "densities=null"))) == {
        "learning_rate": 0.001,
        "drops": (20, 30),
        "drop_factor": 0.5,
        "densities": None,
    }


def test_none_is_the_presets_own_value_and_the_text_null_is_none():
    resnet50, lenet = {"network": "resnet50", "profile": "smoke"}, {"network": "lenet_300_100", "profile": "smoke"}
    assert configure(resnet50 | {"densities": None})[0] == preset("resnet50", profile="smoke")
    assert configure(resnet50 | {"densities": "null"})[0].setting.densities is None
    with pytest.raises(SettingError, match="pruning_scope is 'global'; leave one of them out"):
        configure(lenet | {"pruning_scope": "global", "output_pruning_rate": None})
    together = configure(lenet | {"pruning_scope": "global", "output_pruning_rate": "null"})[0].setting
    assert (together.pruning_scope, together.output_pruning_rate) == ("global", None)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("rewinds", "0;200", "list, like [1, 2], or 1,2 on a command line"),
        ("rewinds", "", "list, like [1, 2], or 1,2 on a command line"),
        ("rewinds", True, "list, like [1, 2], or 1,2 on a command line"),
        ("levels", "true", "integer"),
        ("levels", 2.5, "integer"),
        ("levels", "1,2", "integer"),
        ("learning_rate", "fast", "number"),
    ],
)
def test_what_a_command_line_cannot_mean_is_refused_with_the_form_that_works(name, given, expected):
    with pytest.raises(SettingError) as refused:
        configure({"profile": "smoke", name: given}, network="lenet_300_100")
    assert str(refused.value) == f"{name}: {given!r} is not valid: input should be a valid {expected}"


def test_a_notebooks_data_folder_is_where_data_is_looked_for_from_then_on_by_every_process(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert configure({"data_folder": "here"}, network="lenet_300_100") == (LENET, {})
    assert data_root() == tmp_path / "here"
    program = "import os; print(os.environ['LTH_DATA'])"
    started = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
    assert started.stdout.strip() == str(tmp_path / "here")


@pytest.mark.parametrize("wrong", ["no/such/folder", "file", 3])
def test_a_data_folder_that_is_no_folder_is_refused(wrong, tmp_path, monkeypatch):
    before = data_root()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=f"data_folder: {wrong!r} is not a folder; expected one that holds data"):
        configure({"data_folder": wrong}, network="lenet_300_100")
    with pytest.raises(SettingError, match="profile"):
        configure({"data_folder": str(tmp_path), "profile": "gigantic"}, network="lenet_300_100")
    assert data_root() == before


def test_a_mapping_is_given_as_one_or_as_json():
    example = {"laptop": "float32"}
    for given in (example, '{"laptop": "float32"}'):
        assert mapping_of("scales", given, example) == example
    for wrong in ("text", "1,2", {}, {"laptop": 1}, ["laptop"], None, 3):
        with pytest.raises(SettingError) as refused:
            mapping_of("scales", wrong, example)
        expected = 'is not valid; expected names with values, like {"laptop": "float32"}'
        assert str(refused.value) == f"scales: {wrong!r} {expected}"
