"""The command in the message on missing records, handed to the command line: it asks for what was missing."""

import shlex

import pytest

from lth_study import Study, preset
from lth_study.__main__ import entry
from lth_study.commands import command_for, how_to_make
from lth_study.plan import barriers, distances, trainings

PAPER = preset("lenet_300_100")
SMOKE = preset("lenet_300_100", profile="smoke")
STABILITY = SMOKE.only("stability")
LAPTOP = preset("resnet20", profile="laptop").updated(dataset="mnist_embedded")
RESNET20 = preset("resnet20").updated(dataset="mnist_embedded", precision="bfloat16")
RESNET50 = preset("resnet50", profile="laptop")
GLOBAL = {"pruning_scope": "global", "output_pruning_rate": None}
SHORT = {"iterations": 900, "drops": (600,)}
TWO_ENDS = Study(
    PAPER.setting,
    {"accuracy": PAPER.extents["accuracy"].updated(levels=3), "extreme": PAPER.only("extreme").extent},
)

WHOLE = {
    "a preset": SMOKE,
    "seeds": SMOKE.updated(replicates=(2, 5)),
    "one seed": SMOKE.updated(replicates=(4,)),
    "data orders": SMOKE.updated(orders=3),
    "a rewinding iteration that the accuracy has not": LAPTOP.updated(rewinds=(0, 500)),
    "other levels": LAPTOP.updated(levels=9, compared_levels=(3, 9), methods=("imp",), replicates=2),
    "a setting": RESNET20.updated(rewinds=(0, 500), replicates=(2, 3), orders=2, dense_orders=4),
    "no setting": SMOKE.updated(output_pruning_rate=None),
    "more densities than levels": RESNET50.updated(densities=(0.8, 0.5, 0.3, 0.1), levels=3),
    "one shot": SMOKE.updated(**GLOBAL, densities=(0.5,)),
}
"""Studies that one command can ask for."""
PARTS = {
    "levels": (STABILITY.updated(levels=3, compared_levels=(1, 3)), 1),
    "one figure": (PAPER.only("levels").updated(replicates=(7,)), 1),
    "extreme": (PAPER.only("extreme").updated(levels=15), 1),
    "no barriers": (STABILITY.updated(barriers=False), 1),
    "densities of a figure": (RESNET50.only("accuracy").updated(densities=(0.6, 0.4)), 1),
    "a figure of another setting": (RESNET20.only("accuracy"), 1),
    "a shorter training": (RESNET20.only("stability").updated(**SHORT, rewinds=(0, 25)), 1),
    "one shot, one figure": (STABILITY.updated(**GLOBAL, densities=(0.5,), levels=1), 1),
    "two figures": (TWO_ENDS, 2),
    "two figures of three": (Study(SMOKE.setting, {name: SMOKE.extents[name] for name in ("levels", "stability")}), 2),
    "figures that do not follow each other": (
        Study(LAPTOP.setting, LAPTOP.extents | {"accuracy": LAPTOP.extents["accuracy"].updated(replicates=(9,))}),
        2,
    ),
    "a shorter training of all figures": (
        Study(
            RESNET20.only("accuracy").updated(**SHORT, rewinds=(0,)).setting,
            {
                "stability": RESNET20.extents["stability"].updated(rewinds=(0, 25)),
                "accuracy": RESNET20.extents["accuracy"].updated(rewinds=(0, 30), levels=4),
            },
        ),
        2,
    ),
}
"""Studies that need a command for each figure, and how many."""


def asked_for(command: str, monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """What the command line is asked to train by every part of a command."""
    asked: list[Study] = []
    monkeypatch.setattr("lth_study.runner.train_missing", lambda study, *_, **__: asked.append(study))
    for part in command.split(" && "):
        monkeypatch.setattr("sys.argv", shlex.split(part))
        with pytest.raises(SystemExit) as left:
            entry()
        assert not left.value.code
    return asked


@pytest.mark.parametrize("wish", WHOLE)
def test_a_preset_with_changes_has_one_command_that_asks_for_the_same_study(wish: str, monkeypatch: pytest.MonkeyPatch):
    command = command_for(WHOLE[wish])
    assert command is not None
    assert "--figure" not in command
    (asked,) = asked_for(command, monkeypatch)
    assert asked == WHOLE[wish]


@pytest.mark.parametrize("wish", PARTS)
def test_other_figures_have_commands_that_together_ask_for_the_same(wish: str, monkeypatch: pytest.MonkeyPatch):
    study, count = PARTS[wish]
    command = command_for(study)
    assert command is not None
    asked = asked_for(command, monkeypatch)
    assert [part.setting for part in asked] == [study.setting] * count
    for listed in (trainings, distances, barriers):
        assert {each for part in asked for each in listed(part)} == set(listed(study))


def test_the_message_counts_what_is_missing_and_gives_the_command():
    plan = trainings(SMOKE)
    message = how_to_make(SMOKE, plan[4:])
    assert message.startswith(f"{len(plan) - 4} of {len(plan)} trainings")
    assert f"{plan[4]}; {plan[5]}; {plan[6]}; ..." in message
    assert message.endswith("in a terminal with: lth run lenet_300_100 --recipe standard --profile smoke")


def test_the_message_proposes_other_images_where_nothing_reads_them_any_more():
    study = LAPTOP.updated(dataset="cifar10_jpeg")
    assert how_to_make(study, trainings(study)).endswith("to train, choose dataset='cifar10'")


@pytest.mark.parametrize("label", ["recipe", "profile"])
def test_settings_that_go_by_a_name_of_their_own_have_no_command(label: str):
    study = SMOKE.updated(**{label: "mine"})
    assert command_for(study) is None
    assert "terminal" not in how_to_make(study, trainings(study))
