"""`configure`: the parameters of a notebook, checked before anything runs."""

import subprocess
import sys

import pytest

from lth_study import SettingError, configure, preset
from lth_study.data import data_root


def test_a_notebooks_parameters_become_a_study():
    namespace = {"profile": "smoke", "replicates": 2, "rewinds": [0, 5], "__name__": "__main__", "_i1": "", "In": []}
    study, options = configure(namespace, network="lenet_300_100")
    assert study == preset("lenet_300_100", profile="smoke").updated(replicates=(1, 2), rewinds=(0, 5))
    assert options == {}
    assert namespace["profile"] == "smoke"


def test_without_parameters_a_notebook_is_at_the_papers_scale():
    assert configure({}, network="lenet_300_100") == (preset("lenet_300_100"), {})


def test_a_notebook_can_say_what_to_do_about_missing_records():
    assert configure({"missing": "error"}, network="lenet_300_100")[1] == {"missing": "error"}
    assert configure({"missing": "train"}, network="lenet_300_100")[1] == {"missing": "train", "progress": "bar"}
    with pytest.raises(SettingError, match=r"missing: 'ignore'.*'train' or 'error'"):
        configure({"missing": "ignore"}, network="lenet_300_100")


def test_a_parameter_that_no_notebook_has_is_refused_with_the_valid_ones_listed():
    with pytest.raises(SettingError, match=r"'replicate'; valid parameters: recipe, profile, missing, .*replicates"):
        configure({"profile": "smoke", "replicate": 2}, network="lenet_300_100")
    with pytest.raises(SettingError, match=r"'network'; valid parameters: profile"):
        configure({"network": "vgg19", "profile": "smoke"}, network="resnet20", recipe="low")
    with pytest.raises(SettingError, match="unknown parameter 'rewinds'"):
        configure({"rewinds": [5]}, network="lenet_300_100", rewinds=[0])


def test_a_notebook_can_give_settings_of_its_own():
    study, _ = configure({"profile": "smoke"}, network="lenet_300_100", rewinds=[7], levels=1)
    assert study == preset("lenet_300_100", profile="smoke").updated(rewinds=(7,), levels=1)


def test_a_notebook_can_have_the_network_and_the_recipe_as_parameters():
    study, _ = configure({"network": "vgg19", "recipe": "warmup", "profile": "laptop", "rewinds": None, "levels": 3})
    assert study == preset("vgg19", "warmup", "laptop").updated(levels=3)


def test_a_notebooks_data_folder_is_where_data_is_looked_for_from_then_on_by_every_process(tmp_path, monkeypatch):
    before = data_root()
    assert configure({"data_folder": None}, network="lenet_300_100") == (preset("lenet_300_100"), {})
    assert data_root() == before
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert configure({"data_folder": "here"}, network="lenet_300_100") == (preset("lenet_300_100"), {})
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


def test_a_setting_that_means_nothing_to_a_notebook_is_refused_as_unknown():
    given = {"network": "resnet20", "profile": "laptop", "levels": 3}
    assert configure(given)[0].extent.levels == 3
    with pytest.raises(SettingError, match="unknown parameter 'levels'"):
        configure(given, without=["levels"])


def test_a_notebook_of_one_figure_has_that_figures_parameters():
    study, _ = configure({"profile": "laptop", "rewinds": [0, 100, 200]}, network="resnet20", figure="accuracy")
    assert study == preset("resnet20", profile="laptop").only("accuracy").updated(rewinds=(0, 100, 200))
