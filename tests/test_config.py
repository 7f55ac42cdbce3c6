import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lth_study import ConfigError, configure, figures, preset
from lth_study.data import data_root
from lth_study.settings import Config

DIGESTS = {"paper": "7a0d53d5f65f", "laptop": "1f79200c6446", "smoke": "68be79a1bab0"}
PROFILES = list(DIGESTS)


@pytest.fixture
def smoke() -> Config:
    return preset("lenet_300_100", profile="smoke")


@pytest.mark.parametrize("profile", PROFILES)
def test_the_digests_of_the_presets_never_change(profile):
    assert preset("lenet_300_100", profile=profile).digest() == DIGESTS[profile]


def test_the_paper_profile_is_the_papers_setting():
    config = preset("lenet_300_100")
    assert (config.recipe, config.profile, config.dataset) == ("standard", "paper", "mnist")
    assert (config.iterations, config.batch_size) == (50_000, 60)
    assert (config.optimizer, config.learning_rate, config.weight_decay) == ("adam", 1.2e-3, 0.0)
    assert (config.pruning_rate, config.output_pruning_rate) == (0.2, 0.1)
    assert config.replicates == (1, 2, 3)


@pytest.mark.parametrize(
    ("chosen", "wrong", "known"),
    [
        (("lenet",), "network 'lenet'", ["lenet_300_100"]),
        (("lenet_300_100", "fast"), "recipe 'fast'", ["standard"]),
        (("lenet_300_100", "standard", "huge"), "profile 'huge'", PROFILES),
    ],
)
def test_unknown_preset_names_are_refused_with_the_known_ones_listed(chosen, wrong, known):
    with pytest.raises(ConfigError, match=f"unknown {wrong}; known: ") as refused:
        preset(*chosen)
    assert all(name in str(refused.value) for name in known)


@pytest.mark.parametrize(
    "changes",
    [
        {"rewinds": (3, 7)},
        {"levels": 9},
        {"compared_levels": (1,)},
        {"methods": ("imp",)},
        {"replicates": 5},
        {"orders": 4},
        {"recipe": "renamed"},
        {"profile": "renamed"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_extent_and_the_labels_of_a_study_do_not_change_its_digest(smoke, changes):
    assert smoke.updated(**changes).digest() == smoke.digest()


DETERMINING: dict[str, Any] = {
    "dataset": "mnist",
    "width": 0.5,
    "image_size": 12,
    "augment": True,
    "warmup": 10,
    "drops": (5,),
    "drop_factor": 0.5,
    "final_learning_rate": 1e-4,
    "label_smoothing": 0.1,
    "auxiliary_loss": 0.4,
    "weight_average": 0.99,
    "rewind_optimizer": "fresh",
    "reinit_length": "remaining",
    "pruning_scope": "global",
    "iterations": 121,
    "batch_size": 61,
    "optimizer": "momentum",
    "learning_rate": 1.3e-3,
    "momentum": 0.8,
    "weight_decay": 2e-4,
    "weight_decay_on": "convolutions",
    "batch_norm_scale": "one",
    "pruning_rate": 0.25,
    "output_pruning_rate": 0.2,
    "prune_output": True,
    "densities": (0.5, 0.2),
    "classes": 11,
    "smallest_crop": 0.3,
    "pieces": 2,
    "precision": "bfloat16",
}


def changed(config: Config, name: str) -> Config:
    return Config.create(**{**dict(config), name: DETERMINING[name]})


def test_every_setting_that_determines_a_training_changes_the_digest(smoke):
    convolutional = preset("resnet20", profile="smoke").updated(augment=False, drops=(), pruning_scope="layerwise")
    inception = preset("inception_v3", profile="smoke").updated(image_size=299, augment=True)
    own = {"auxiliary_loss", "prune_output", "classes", "smallest_crop", "densities"}
    fully_connected = {"optimizer", "output_pruning_rate"}
    others = set(DETERMINING) - fully_connected - own
    bases = ((convolutional, others), (smoke, fully_connected), (inception, own))
    for base, names in bases:
        digests = {changed(base, name).digest() for name in names}
        assert len(digests | {base.digest()}) == len(names) + 1


def test_momentum_is_refused_where_the_optimiser_has_none(smoke):
    with pytest.raises(ConfigError, match=r"momentum: 0\.8 has no effect with optimizer='adam'; leave it out"):
        smoke.updated(momentum=0.8)


@pytest.mark.parametrize("network", ["lenet_300_100", "resnet50", "inception_v3", "squeezenet1_0"])
@pytest.mark.parametrize(("name", "value"), [("batch_norm_scale", "one"), ("weight_decay_on", "convolutions")])
def test_settings_of_cifar_networks_are_refused_for_the_others(network, name, value):
    with pytest.raises(ConfigError, match=f"{name}: '{value}' is not a setting of {network}; leave it out"):
        preset(network, profile="smoke").updated(**{name: value})


def test_a_choice_of_what_decays_is_refused_where_nothing_does():
    config = preset("resnet20", profile="smoke")
    with pytest.raises(ConfigError, match="weight_decay_on: 'convolutions' has no effect with weight_decay=0; leave"):
        config.updated(weight_decay=0.0, weight_decay_on="convolutions")


def test_every_field_either_determines_trainings_or_says_how_many():
    extent = {"rewinds", "levels", "compared_levels", "methods", "replicates", "orders", "dense_orders", "barriers"}
    extent |= {"curve_rewinds", "curve_levels"}
    assert set(Config.model_fields) == set(DETERMINING) | {"network"} | extent | {"recipe", "profile"}


def test_no_output_rate_is_another_study_than_an_output_rate(smoke):
    assert smoke.updated(output_pruning_rate=None).digest() != smoke.digest()


def test_digests_are_twelve_hexadecimal_digits_and_part_of_the_name(smoke):
    assert set(smoke.digest()) <= set("0123456789abcdef")
    assert len(smoke.digest()) == 12
    assert smoke.name == f"lenet_300_100-standard-smoke-mnist_embedded-{smoke.digest()}"


def test_a_whole_number_and_its_float_are_one_setting(smoke):
    assert smoke.updated(learning_rate=1).digest() == smoke.updated(learning_rate=1.0).digest()


def test_the_order_that_settings_are_given_in_does_not_matter(smoke):
    assert Config.create(**dict(reversed(list(dict(smoke).items())))).digest() == smoke.digest()


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_digests_are_the_same_in_every_process(hash_seed):
    program = f"from lth_study import preset; print(*(preset('lenet_300_100', profile=p).digest() for p in {PROFILES}))"
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(DIGESTS.values())


def test_a_config_is_frozen(smoke):
    with pytest.raises(ValidationError, match="frozen"):
        smoke.iterations = 5
    assert smoke.iterations == 120


def test_updating_makes_another_config_and_checks_it(smoke):
    assert smoke.updated(iterations=200).iterations == 200
    assert smoke.iterations == 120
    with pytest.raises(ConfigError, match="119"):
        smoke.updated(rewinds=(120,))


@pytest.mark.parametrize("profile", PROFILES)
def test_json_round_trip(profile):
    config = preset("lenet_300_100", profile=profile)
    text = config.to_json()
    again = Config.from_json(text)
    assert again == config
    assert again.digest() == config.digest()
    assert json.loads(text)["rewinds"] == list(config.rewinds)


@given(
    rate=st.floats(0, 1),
    learning_rate=st.floats(1e-300, 1e300),
    decay=st.floats(0, 1e300),
    replicates=st.sets(st.integers(1, 2**70), min_size=1, max_size=4),
    rewinds=st.sets(st.integers(0, 119), min_size=1, max_size=5),
)
def test_json_round_trip_keeps_every_digit(rate, learning_rate, decay, replicates, rewinds):
    config = preset("lenet_300_100", profile="smoke").updated(
        pruning_rate=rate,
        learning_rate=learning_rate,
        weight_decay=decay,
        replicates=tuple(replicates),
        rewinds=tuple(rewinds),
    )
    again = Config.from_json(config.to_json())
    assert again == config
    assert again.digest() == config.digest()


@pytest.mark.parametrize("text", ["", "{", "not json"])
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(ConfigError, match="JSON"):
        Config.from_json(text)


@pytest.mark.parametrize("text", ["[1]", "null", '"lenet_300_100"'])
def test_json_that_is_not_an_object_is_refused(text):
    with pytest.raises(ConfigError):
        Config.from_json(text)


def test_an_incomplete_config_is_refused_with_the_missing_settings_named(smoke):
    fields = json.loads(smoke.to_json())
    del fields["iterations"], fields["batch_size"]
    with pytest.raises(ConfigError, match=r"iterations.*required.*batch_size.*required"):
        Config.create(**fields)


def test_an_unknown_setting_is_refused_with_the_known_ones_listed(smoke):
    with pytest.raises(ConfigError, match=r"'learning_rates'.*known: network.*learning_rate"):
        smoke.updated(learning_rates=0.1)


def test_every_problem_is_reported_at_once(smoke):
    with pytest.raises(ConfigError, match=r"(?s)iterations: -1.*orders: 0"):
        smoke.updated(iterations=-1, orders=0)


REFUSED = {
    "text for a number": ({"iterations": "120"}, ["iterations", "'120'", "integer"]),
    "a fraction for a count": ({"batch_size": 60.5}, ["batch_size", "60.5", "integer"]),
    "a truth value for a count": ({"levels": True}, ["levels", "True", "integer"]),
    "a number for a name": ({"network": 300}, ["network", "300", "lenet_300_100"]),
    "a number for a list": ({"rewinds": 20}, ["rewinds", "20"]),
    "text in a list of numbers": ({"rewinds": ("20",)}, ["rewinds", "'20'", "integer"]),
    "unknown optimiser": ({"optimizer": "sgd"}, ["optimizer", "'sgd'", "'adam'", "'momentum'"]),
    "unknown method": ({"methods": ("snip",)}, ["methods", "'snip'", "'imp'", "'random_pruning'", "'random_reinit'"]),
    "no iterations": ({"iterations": 0}, ["iterations", "0", "greater than or equal to 1"]),
    "no batch": ({"batch_size": 0}, ["batch_size", "0", "greater than or equal to 1"]),
    "no learning": ({"learning_rate": 0.0}, ["learning_rate", "0.0", "greater than 0"]),
    "learning rate that is no number": ({"learning_rate": math.nan}, ["learning_rate", "nan"]),
    "infinite learning rate": ({"learning_rate": math.inf}, ["learning_rate", "inf", "finite"]),
    "infinite decay": ({"weight_decay": math.inf}, ["weight_decay", "inf", "finite"]),
    "negative decay": ({"weight_decay": -0.1}, ["weight_decay", "-0.1", "greater than or equal to 0"]),
    "momentum of one": ({"momentum": 1.0}, ["momentum", "1.0", "less than 1"]),
    "rate above one": ({"pruning_rate": 1.5}, ["pruning_rate", "1.5", "less than or equal to 1"]),
    "rate below zero": ({"pruning_rate": -0.2}, ["pruning_rate", "-0.2", "greater than or equal to 0"]),
    "rate that is no number": ({"pruning_rate": math.nan}, ["pruning_rate", "nan"]),
    "output rate above one": ({"output_pruning_rate": 2.0}, ["output_pruning_rate", "2.0", "less than or equal to 1"]),
    "negative k": ({"rewinds": (0, -1)}, ["rewinds", "-1", "0 <= k <= 119"]),
    "k at the end": ({"rewinds": (0, 120)}, ["rewinds", "120", "0 <= k <= 119"]),
    "k beyond the end": ({"rewinds": (5_000,)}, ["rewinds", "5000", "0 <= k <= 119"]),
    "no k": ({"rewinds": ()}, ["rewinds", "at least one"]),
    "k twice": ({"rewinds": (0, 20, 20)}, ["rewinds", "[0, 20, 20]", "once"]),
    "negative levels": ({"levels": -1}, ["levels", "-1", "greater than or equal to 0"]),
    "comparison of the dense level": ({"compared_levels": (0,)}, ["compared_levels", "0", "1 to levels=2"]),
    "comparison below the last level": ({"compared_levels": (1, 3)}, ["compared_levels", "3", "1 to levels=2"]),
    "no replicate": ({"replicates": 0}, ["replicates", "0", "1 or more"]),
    "negative number of replicates": ({"replicates": -2}, ["replicates", "-2", "1 or more"]),
    "empty list of replicates": ({"replicates": ()}, ["replicates", "at least one"]),
    "replicate zero": ({"replicates": (0, 1)}, ["replicates", "[0, 1]", "1 or more"]),
    "replicate twice": ({"replicates": (1, 1)}, ["replicates", "[1, 1]", "once"]),
    "no method": ({"methods": ()}, ["methods", "at least one"]),
    "method twice": ({"methods": ("imp", "imp")}, ["methods", "['imp', 'imp']", "once"]),
    "filters of a network without any": ({"width": 0.5}, ["width", "0.5", "not a setting of lenet_300_100"]),
    "crops of a network that takes none": ({"augment": True}, ["augment", "True", "not a setting of lenet_300_100"]),
    "size of a network that has one": ({"image_size": 14}, ["image_size", "14", "not a setting of lenet_300_100"]),
    "a k of the curves beyond the end": ({"curve_rewinds": (200,)}, ["curve_rewinds", "200", "0 <= k <= 119"]),
    "output rate with all layers together": ({"pruning_scope": "global"}, ["output_pruning_rate", "0.1", "'global'"]),
    "one shot layer by layer": ({"densities": (0.5, 0.2)}, ["densities", "pruning_scope", "'global'"]),
    "drop before the beginning": ({"drops": (-5, 60)}, ["drops", "[-5, 60]", "from 0 to 119"]),
    "drop after the end": ({"drops": (60, 120)}, ["drops", "[60, 120]", "from 0 to 119"]),
    "no order": ({"orders": 0}, ["orders", "0", "greater than or equal to 1"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_value_is_refused_with_a_message_that_names_it_and_what_is_expected(smoke, case):
    changes, named = REFUSED[case]
    with pytest.raises(ConfigError) as refused:
        smoke.updated(**changes)
    assert [part for part in named if part not in str(refused.value)] == []


def test_a_config_error_is_a_value_error():
    assert issubclass(ConfigError, ValueError)


def test_a_number_of_replicates_stands_for_the_first_seeds(smoke):
    assert smoke.updated(replicates=3).replicates == (1, 2, 3)
    assert smoke.updated(replicates=[4, 7]).replicates == (4, 7)


def test_lists_are_taken_for_tuples(smoke):
    listed = smoke.updated(rewinds=[0, 20], compared_levels=[2], methods=list(smoke.methods), replicates=[1])
    assert listed == smoke.updated(compared_levels=(2,))


def test_the_last_level_is_compared_unless_others_are_named(smoke):
    assert smoke.compared == (2,)
    assert smoke.updated(levels=5).compared == (5,)
    assert smoke.updated(levels=0).compared == ()
    assert smoke.updated(compared_levels=()).compared == ()
    assert smoke.updated(compared_levels=(1,)).compared == (1,)
    assert smoke.last_compared == 2
    with pytest.raises(ConfigError, match=r"levels: 2 and compared_levels: \(\) leave no level"):
        _ = smoke.updated(compared_levels=()).last_compared


def test_a_notebooks_parameters_become_a_config():
    namespace = {"profile": "smoke", "replicates": 2, "rewinds": [0, 5], "__name__": "__main__", "_i1": "", "In": []}
    config, options = configure(namespace, network="lenet_300_100")
    assert config == preset("lenet_300_100", profile="smoke").updated(replicates=(1, 2), rewinds=(0, 5))
    assert options == {}
    assert namespace["profile"] == "smoke"


def test_without_parameters_a_notebook_is_at_the_papers_scale():
    assert configure({}, network="lenet_300_100") == (preset("lenet_300_100"), {})


def test_a_notebook_can_say_what_to_do_about_missing_records():
    assert configure({"missing": "error"}, network="lenet_300_100")[1] == {"missing": "error"}
    assert configure({"missing": "train"}, network="lenet_300_100")[1] == {"missing": "train", "progress": "bar"}
    with pytest.raises(ConfigError, match=r"missing: 'ignore'.*'train' or 'error'"):
        configure({"missing": "ignore"}, network="lenet_300_100")


def test_a_parameter_that_no_notebook_has_is_refused_with_the_valid_ones_listed():
    with pytest.raises(ConfigError, match=r"'replicate'; valid parameters: recipe, profile, missing, .*replicates"):
        configure({"profile": "smoke", "replicate": 2}, network="lenet_300_100")
    with pytest.raises(ConfigError, match=r"'network'; valid parameters: profile"):
        configure({"network": "vgg19", "profile": "smoke"}, network="resnet20", recipe="low")
    with pytest.raises(ConfigError, match="unknown parameter 'rewinds'"):
        configure({"rewinds": [5]}, network="lenet_300_100", rewinds=[0])


def test_a_notebook_can_give_settings_of_its_own():
    config, _ = configure({"profile": "smoke"}, network="lenet_300_100", rewinds=[7], levels=1)
    assert config == preset("lenet_300_100", profile="smoke").updated(rewinds=(7,), levels=1)


def test_a_notebook_can_have_the_network_and_the_recipe_as_parameters():
    config, _ = configure({"network": "vgg19", "recipe": "warmup", "profile": "laptop", "rewinds": None, "levels": 3})
    assert config == preset("vgg19", "warmup", "laptop").updated(levels=3)


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
    with pytest.raises(ConfigError, match=f"data_folder: {wrong!r} is not a folder; expected one that holds data"):
        configure({"data_folder": wrong}, network="lenet_300_100")
    with pytest.raises(ConfigError, match="profile"):
        configure({"data_folder": str(tmp_path), "profile": "gigantic"}, network="lenet_300_100")
    assert data_root() == before


@pytest.mark.parametrize("profile", PROFILES)
def test_figures_are_parts_of_one_study(profile):
    config = preset("lenet_300_100", profile=profile)
    parts = figures(config)
    assert {part.digest() for part in parts.values()} == {config.digest()}
    assert parts["stability"] == config
    assert parts["accuracy"].compared_levels == tuple(range(1, config.levels + 1))
    assert parts["accuracy"].rewinds == (0,)
    assert ("extreme" in parts) == (profile == "paper")


def test_text_where_a_list_belongs_is_said_to_be_no_list():
    with pytest.raises(ConfigError, match=r"densities: '\[0.5\]' is not valid: input should be a valid list"):
        preset("resnet50", profile="smoke").updated(densities="[0.5]")


def test_a_warmup_that_the_training_does_not_outlast_is_refused():
    warm = preset("resnet20", "warmup", "laptop")
    with pytest.raises(ConfigError, match="warmup: 667 iterations do not end before the training's 300 do"):
        warm.updated(iterations=300, rewinds=(0,), curve_rewinds=None, drops=())
    assert warm.updated(iterations=668, rewinds=(0,), curve_rewinds=None, drops=()).warmup == 667


def test_new_densities_bring_as_many_levels_unless_levels_are_given():
    laptop = preset("resnet50", profile="laptop").updated(compared_levels=None)
    assert laptop.updated(densities=(0.5, 0.1)).levels == 2
    assert laptop.updated(densities=[0.5, 0.3, 0.2, 0.1], levels=1).levels == 1
    with pytest.raises(ConfigError, match="levels: 3 is more than the 2 densities"):
        laptop.updated(densities=(0.5, 0.1), levels=3)


def test_a_setting_that_means_nothing_to_a_notebook_is_refused_as_unknown():
    given = {"network": "resnet20", "profile": "laptop", "levels": 3}
    assert configure(given)[0].levels == 3
    with pytest.raises(ConfigError, match="unknown parameter 'levels'"):
        configure(given, without=["levels"])
