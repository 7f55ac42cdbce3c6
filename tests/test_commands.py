"""The command in the message on missing records, handed to the command line: it asks for what was missing."""

import shlex

import pytest

from lth_study.__main__ import entry
from lth_study.commands import command_for, how_to_make
from lth_study.plan import trainings
from lth_study.presets import figures, preset
from lth_study.settings import Setting

PAPER = preset("lenet_300_100")
SMOKE = preset("lenet_300_100", profile="smoke")
RESNET20 = preset("resnet20").updated(dataset="cifar10_jpeg")
WISHES = {
    "the preset": SMOKE,
    "levels": SMOKE.updated(levels=3, compared_levels=(1, 3)),
    "replicates": SMOKE.updated(replicates=2),
    "one seed": SMOKE.updated(replicates=(4,)),
    "seeds": SMOKE.updated(replicates=(2, 5)),
    "orders": SMOKE.updated(orders=3),
    "rewinds": SMOKE.updated(rewinds=(0, 5)),
    "methods": SMOKE.updated(methods=("imp",)),
    "images": PAPER.updated(dataset="mnist_embedded"),
    "accuracy": figures(PAPER)["accuracy"],
    "levels of a seed": figures(PAPER.updated(replicates=(7,)))["levels"],
    "extreme": figures(PAPER)["extreme"],
    "less of extreme": figures(PAPER)["extreme"].updated(levels=15),
    "ImageNet": preset("resnet50", profile="laptop").updated(levels=2),
    "more sizes than levels": preset("resnet50", profile="laptop").updated(densities=(0.8, 0.5, 0.3, 0.1), levels=3),
    "one shot": PAPER.updated(densities=(0.5,), pruning_scope="global", output_pruning_rate=None, curve_levels=1),
    "a setting": SMOKE.updated(weight_decay=0.1),
    "no setting": SMOKE.updated(output_pruning_rate=None),
    "a setting of a figure": figures(RESNET20.updated(precision="bfloat16"))["accuracy"],
    "settings and less": RESNET20.updated(precision="bfloat16", rewinds=(0, 500), replicates=(2, 3), orders=2),
    "a shorter training": RESNET20.updated(iterations=900, drops=(600,), rewinds=(0, 25), curve_rewinds=(0,)),
}


def test_the_message_counts_what_is_missing_and_gives_the_command():
    plan = trainings(SMOKE)
    message = how_to_make(SMOKE, plan[4:])
    assert message.startswith(f"{len(plan) - 4} of {len(plan)} trainings")
    assert f"{plan[4]}; {plan[5]}; {plan[6]}; ..." in message
    assert message.endswith(f"in a terminal with: {command_for(SMOKE)}")


@pytest.mark.parametrize("wish", WISHES)
def test_the_command_trains_what_is_missing_and_nothing_else(wish: str, monkeypatch: pytest.MonkeyPatch):
    study = WISHES[wish]
    command = command_for(study)
    assert command is not None
    asked: list[Setting] = []
    monkeypatch.setattr("lth_study.runner.train_missing", lambda parts, *_, **__: asked.extend(parts))
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit):
        entry()
    assert [part.digest() for part in asked] == [study.digest()]
    assert set(trainings(asked[0])) == set(trainings(study))


def test_a_preset_needs_no_options():
    assert command_for(SMOKE) == "lth run lenet_300_100 --recipe standard --profile smoke --figure stability"


@pytest.mark.parametrize("label", ["recipe", "profile"])
def test_settings_that_go_by_a_name_of_their_own_have_no_command(label: str):
    study = SMOKE.updated(**{label: "mine"})
    assert command_for(study) is None
    assert "terminal" not in how_to_make(study, trainings(study))
