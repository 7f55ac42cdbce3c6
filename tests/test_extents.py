"""`Extent` and `Study`: how much is asked for, and how a change reaches the figures of a study."""

from typing import Any

import pytest
from studies import assert_refused

from lth_study import SettingError, preset
from lth_study.settings import METHODS

SMOKE = preset("lenet_300_100", profile="smoke")


@pytest.mark.parametrize(
    ("changes", "compared"),
    [
        ({}, (2,)),
        ({"levels": 5}, (5,)),
        ({"levels": 0}, ()),
        ({"compared_levels": ()}, ()),
        ({"compared_levels": [1]}, (1,)),
        ({"compared_levels": "all", "levels": 4}, (1, 2, 3, 4)),
    ],
)
def test_the_last_level_is_compared_unless_others_are_named(changes, compared):
    assert SMOKE.updated(**changes).extent.compared == compared


def test_new_levels_drop_the_compared_ones_that_are_deeper():
    extent = SMOKE.extent.updated(levels=9, compared_levels=(3, 6, 9))
    assert extent.updated(levels=6).compared == (3, 6)
    assert extent.updated(levels=2).compared == (2,)
    assert extent.updated(levels=2, compared_levels=(1,)).compared == (1,)
    assert extent.updated(compared_levels=()).updated(levels=2).compared == ()


def test_an_extent_without_a_compared_level_has_no_last_one():
    assert SMOKE.extent.last_compared == 2
    with pytest.raises(SettingError, match=r"levels: 2 and compared_levels: \(\) leave no level"):
        _ = SMOKE.extent.updated(compared_levels=()).last_compared


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a truth value for a count": ({"levels": True}, ["levels", "True", "integer"]),
    "a truth value for replicates": ({"replicates": True}, ["replicates", "True", "list"]),
    "a number for a list": ({"rewinds": 20}, ["rewinds", "20"]),
    "text in a list of numbers": ({"rewinds": ("20",)}, ["rewinds", "'20'", "integer"]),
    "unknown method": ({"methods": ("snap",)}, ["methods", "'snap'", "'imp'", "'random_pruning'", "'random_reinit'"]),
    "negative k": ({"rewinds": (0, -1)}, ["rewinds", "-1", "0 <= k <= 119"]),
    "k at the end": ({"rewinds": (0, 120)}, ["rewinds", "120", "0 <= k <= 119"]),
    "no k": ({"rewinds": ()}, ["rewinds", "at least one"]),
    "k twice": ({"rewinds": (0, 20, 20)}, ["rewinds", "[0, 20, 20]", "once"]),
    "negative levels": ({"levels": -1}, ["levels", "-1", "greater than or equal to 0"]),
    "comparison of the dense level": ({"compared_levels": (0,)}, ["compared_levels", "0", "1 to levels=2"]),
    "comparison below the last level": ({"compared_levels": (1, 3)}, ["compared_levels", "3", "1 to levels=2"]),
    "comparison of a level twice": ({"compared_levels": (1, 1)}, ["compared", "[1, 1]", "once"]),
    "no replicate": ({"replicates": 0}, ["replicates", "0", "1 to 1000"]),
    "negative number of replicates": ({"replicates": -2}, ["replicates", "-2", "1 to 1000"]),
    "more replicates than a list can hold": ({"replicates": 2**70}, ["replicates", str(2**70), "1 to 1000"]),
    "more levels than a list can hold": ({"levels": 2**70}, ["levels", str(2**70), "1000"]),
    "empty list of replicates": ({"replicates": ()}, ["replicates", "at least one"]),
    "replicate zero": ({"replicates": (0, 1)}, ["replicates", "[0, 1]", "1 or more"]),
    "replicate twice": ({"replicates": (1, 1)}, ["replicates", "[1, 1]", "once"]),
    "no method": ({"methods": ()}, ["methods", "at least one"]),
    "method twice": ({"methods": ("imp", "imp")}, ["methods", "['imp', 'imp']", "once"]),
    "no order": ({"orders": 0}, ["orders", "0", "greater than or equal to 1"]),
    "problems of both": ({"iterations": -1, "orders": 0}, ["iterations: -1", "orders: 0"]),
    "an unknown name": ({"level": 3}, ["unknown setting 'level'", "iterations", "compared_levels"]),
}


@pytest.mark.parametrize(("changes", "named"), REFUSED.values(), ids=REFUSED)
def test_a_bad_value_is_refused_with_a_message_that_names_it_and_what_is_expected(changes, named):
    assert_refused(SMOKE.updated, changes, named)


def test_a_shorter_training_is_refused_where_a_figure_rewinds_beyond_its_end():
    with pytest.raises(SettingError, match="rewinds: cannot rewind to iteration 20; the training has 15 iterations"):
        SMOKE.updated(iterations=15)
    assert SMOKE.only("accuracy").updated(iterations=15).extent.rewinds == (0,)


def test_new_densities_bring_as_many_levels_unless_levels_are_given():
    laptop = preset("resnet50", profile="laptop")
    assert [extent.levels for extent in laptop.updated(densities=(0.5, 0.1)).extents.values()] == [2, 2]
    assert laptop.updated(densities=[0.5, 0.3, 0.2, 0.1], levels=1).extent.levels == 1
    assert laptop.updated(densities=()).setting.densities is None  # iterative
    with pytest.raises(SettingError, match="levels: 3 is more than the 2 densities"):
        laptop.updated(densities=(0.5, 0.1), levels=3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"levels": "2"}, ["levels", "'2'", "integer"]), ({"densities": 0.5}, ["densities", "0.5", "list"])],
)
def test_what_other_fields_follow_is_checked_too(changes, named):
    assert_refused(preset("resnet50", profile="laptop").updated, changes, named)


def test_the_first_figure_takes_a_change_as_it_is_and_the_others_what_they_can_share():
    study = preset("resnet20", profile="laptop")
    assert study.extents["accuracy"].rewinds == (0, 25)
    changed = study.updated(
        rewinds=(100, 25, 0, 500),
        levels=5,
        compared_levels=(2, 5),
        methods=("imp",),
        replicates=2,
        orders=3,
        dense_orders=4,
    )
    first, curve = changed.extents.values()
    assert (first.rewinds, first.compared, first.orders, first.barriers) == ((100, 25, 0, 500), (2, 5), 3, True)
    assert (curve.rewinds, curve.compared, curve.orders, curve.barriers) == ((0, 25), (1, 2, 3, 4, 5), 1, False)
    for extent in (first, curve):
        assert (extent.levels, extent.methods, extent.replicates, extent.dense_orders) == (5, ("imp",), (1, 2), 4)
    assert study.updated(rewinds=(100, 25, 7)).extents["accuracy"].rewinds == (25, 100)
    assert study.updated(rewinds=(7,)).extents["accuracy"].rewinds == (7,)


def test_a_figure_that_compares_data_orders_takes_their_number():
    lenet = preset("lenet_300_100").updated(orders=2)
    assert {name: extent.orders for name, extent in lenet.extents.items()} == {
        "stability": 2,
        "accuracy": 1,
        "levels": 2,
        "extreme": 2,
    }


def test_a_change_of_the_setting_leaves_the_extents():
    changed = preset("resnet20").updated(learning_rate=0.05)
    assert changed.extents == preset("resnet20").extents
    assert changed.setting.learning_rate == 0.05


def test_one_figure_alone_takes_every_change():
    curve = preset("resnet20", profile="laptop").only("accuracy").updated(rewinds=(0, 100, 200), levels=3, orders=2)
    assert list(curve.extents) == ["accuracy"]
    assert (curve.extent.rewinds, curve.extent.compared, curve.extent.orders) == ((0, 100, 200), (1, 2, 3), 2)
    assert curve.extent.methods == METHODS
    with pytest.raises(SettingError, match="unknown figure 'stabilty'; known: stability, accuracy"):
        preset("resnet20").only("stabilty")
