"""`Setting`: what is refused, and digests that never change."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from studies import assert_refused

from lth_study import Setting, SettingError, preset

SMOKE = preset("lenet_300_100", profile="smoke").setting

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
"""Another value for every field that determines a training."""


def test_every_field_but_the_network_and_labels_determines_a_training_and_changes_the_digest():
    assert set(Setting.model_fields) == set(DETERMINING) | {"network", "recipe", "profile"}
    cifar = preset("resnet20", profile="smoke").setting.updated(augment=False, drops=(), pruning_scope="layerwise")
    inception = preset("inception_v3", profile="smoke").setting.updated(image_size=299, augment=True)
    of_inception = {"auxiliary_loss", "prune_output", "classes", "smallest_crop", "densities"}
    of_lenet, of_drops = {"optimizer", "output_pruning_rate"}, {"drop_factor"}
    bases = (
        (cifar, set(DETERMINING) - of_lenet - of_inception - of_drops),
        (SMOKE, of_lenet),
        (SMOKE.updated(drops=(5,)), of_drops),
        (inception, of_inception),
    )
    for base, names in bases:
        digests = {base.updated(**{name: DETERMINING[name]}).digest() for name in names}
        assert len(digests | {base.digest()}) == len(names) + 1
    assert SMOKE.updated(output_pruning_rate=None).digest() != SMOKE.digest()


@pytest.mark.parametrize("label", ["recipe", "profile"])
def test_labels_do_not_change_the_digest_but_the_name(label):
    renamed = SMOKE.updated(**{label: "renamed"})
    assert renamed.digest() == SMOKE.digest()
    assert renamed.name == SMOKE.name.replace({"recipe": "standard", "profile": "smoke"}[label], "renamed", 1)


def test_equal_values_have_one_digest_in_any_order():
    """`test_unchanged` has digests that every process gives."""
    assert SMOKE.updated(learning_rate=1).digest() == SMOKE.updated(learning_rate=1.0).digest()
    assert Setting.create(**dict(reversed(list(dict(SMOKE).items())))).digest() == SMOKE.digest()
    assert SMOKE.name == "lenet_300_100-standard-smoke-mnist_embedded-68be79a1bab0"


def test_a_setting_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        SMOKE.iterations = 5  # type: ignore[misc]


@given(rate=st.floats(0, 1), learning_rate=st.floats(1e-300, 1e300), decay=st.floats(0, 1e300))
def test_json_keeps_every_digit(rate, learning_rate, decay):
    setting = SMOKE.updated(pruning_rate=rate, learning_rate=learning_rate, weight_decay=decay)
    assert Setting.from_json(setting.to_json()) == setting


def test_files_from_before_extents_were_apart_are_read():
    old = {"rewinds": [0, 20], "levels": 2, "compared_levels": None, "methods": ["imp"], "replicates": [1], "orders": 2}
    old |= {"dense_orders": 1, "barriers": True, "curve_levels": None, "curve_rewinds": [0]}
    assert Setting.from_json(json.dumps(json.loads(SMOKE.to_json()) | old)) == SMOKE


@pytest.mark.parametrize(
    ("text", "named"),
    [("", "JSON"), ("{", "JSON"), ("[1]", "object"), ("null", "object"), ('{"levels": 1, "levle": 2}', "'levle'")],
)
def test_text_that_is_no_setting_is_refused(text, named):
    with pytest.raises(SettingError, match=named):
        Setting.from_json(text)


def test_missing_fields_are_named_all_at_once():
    fields = json.loads(SMOKE.to_json())
    del fields["iterations"], fields["batch_size"]
    with pytest.raises(SettingError, match=r"iterations.*required.*batch_size.*required"):
        Setting.create(**fields)


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown name": ({"learning_rates": 0.1}, ["'learning_rates'; known: network", "learning_rate,"]),
    "text for a number": ({"iterations": "120"}, ["iterations", "'120'", "integer"]),
    "text for a list": ({"drops": "[5]"}, ["drops", "'[5]'", "valid list"]),
    "a fraction for a count": ({"batch_size": 60.5}, ["batch_size", "60.5", "integer"]),
    "a number for a name": ({"network": 300}, ["network", "300", "lenet_300_100"]),
    "unknown optimiser": ({"optimizer": "sgd"}, ["optimizer", "'sgd'", "'adam'", "'momentum'"]),
    "no iterations": ({"iterations": 0}, ["iterations", "0", "greater than or equal to 1"]),
    "no batch": ({"batch_size": 0}, ["batch_size", "0", "greater than or equal to 1"]),
    "no learning": ({"learning_rate": 0.0}, ["learning_rate", "0.0", "greater than 0"]),
    "learning rate that is no number": ({"learning_rate": math.nan}, ["learning_rate", "nan"]),
    "infinite learning rate": ({"learning_rate": math.inf}, ["learning_rate", "inf", "finite"]),
    "infinite decay": ({"weight_decay": math.inf}, ["weight_decay", "inf", "finite"]),
    "negative decay": ({"weight_decay": -0.1}, ["weight_decay", "-0.1", "greater than or equal to 0"]),
    "momentum of Adam": ({"momentum": 0.8}, ["momentum: 0.8 has no effect with optimizer='adam'; leave it out"]),
    "factor of no drops": ({"drop_factor": 0.5}, ["drop_factor: 0.5 has no effect without drops; leave it out"]),
    "drops by nothing": ({"drops": (5,), "drop_factor": 1.0}, ["drop_factor: 1", "drops=[5]", "set drops to []"]),
    "a line that is level": (
        {"final_learning_rate": 1.2e-3},
        ["final_learning_rate: 0.0012 has no effect with learning_rate=0.0012; leave it out"],
    ),
    "rate above one": ({"pruning_rate": 1.5}, ["pruning_rate", "1.5", "less than or equal to 1"]),
    "rate below zero": ({"pruning_rate": -0.2}, ["pruning_rate", "-0.2", "greater than or equal to 0"]),
    "rate that is no number": ({"pruning_rate": math.nan}, ["pruning_rate", "nan"]),
    "output rate above one": ({"output_pruning_rate": 2.0}, ["output_pruning_rate", "2.0", "less than or equal to 1"]),
    "filters of a network without any": ({"width": 0.5}, ["width", "0.5", "not a setting of lenet_300_100"]),
    "crops of a network that takes none": ({"augment": True}, ["augment", "True", "not a setting of lenet_300_100"]),
    "size of a network that has one": ({"image_size": 14}, ["image_size", "14", "not a setting of lenet_300_100"]),
    "output rate with all layers together": ({"pruning_scope": "global"}, ["output_pruning_rate", "0.1", "'global'"]),
    "one shot layer by layer": ({"densities": (0.5, 0.2)}, ["densities", "pruning_scope", "'global'"]),
    "drop before the beginning": ({"drops": (-5, 60)}, ["drops", "[-5, 60]", "from 0 to 119"]),
    "drop after the end": ({"drops": (60, 120)}, ["drops", "[60, 120]", "from 0 to 119"]),
    "warmup as long as the training": ({"warmup": 120}, ["warmup: 120 iterations do not end before", "120 do"]),
}


@pytest.mark.parametrize(("changes", "named"), REFUSED.values(), ids=REFUSED)
def test_a_bad_value_is_refused_with_a_message_that_names_it_and_what_is_expected(changes, named):
    assert_refused(SMOKE.updated, changes, named)


@pytest.mark.parametrize("network", ["lenet_300_100", "resnet50", "inception_v3", "squeezenet1_0"])
@pytest.mark.parametrize(("name", "value"), [("batch_norm_scale", "one"), ("weight_decay_on", "convolutions")])
def test_settings_of_cifar_networks_are_refused_for_the_others(network, name, value):
    with pytest.raises(SettingError, match=f"{name}: '{value}' is not a setting of {network}; leave it out"):
        preset(network, profile="smoke").updated(**{name: value})


@pytest.mark.parametrize("network", ["resnet50", "inception_v3", "squeezenet1_0"])
def test_what_has_no_effect_may_have_the_presets_value_and_no_other(network):
    """Two values would give one study two digests."""
    study = preset(network, profile="smoke")  # one-shot, and without drops
    for name in ("pruning_rate", "drop_factor"):
        value = getattr(study.setting, name)
        assert study.updated(**{name: value}) == study
        with pytest.raises(SettingError, match=rf"{name}: 0\.15 has no effect with"):
            study.updated(**{name: 0.15})
    study.updated(densities=None, pruning_rate=0.15, drops=[2], drop_factor=0.15, final_learning_rate=None)
