"""The ImageNet networks' presets against the paper, and their claims."""

import pytest

from lth_study import preset
from lth_study.report.claims import read
from lth_study.report.effects import parse
from lth_study.training.updates import learning_rate

NETWORKS = ("resnet50", "inception_v3", "squeezenet1_0")
every_network = pytest.mark.parametrize("network", NETWORKS)

# Presets

RESNET50_RATES = [(0, 0.0), (2, 0.02), (5, 0.05), (29.9, 0.05), (30, 5e-3), (59.9, 5e-3), (60, 5e-4), (79.9, 5e-4),
                  (80, 5e-5)]  # fmt: skip
"""Epoch, learning rate for a batch of 128: the paper's 0.4 divided by 8, warmed up for 5 epochs, a tenth at three."""


@pytest.mark.parametrize(
    ("network", "epoch", "expected"),
    [
        *(("resnet50", e, r) for e, r in RESNET50_RATES),
        *(("inception_v3", e, 0.0825 * 0.94**drops) for e, drops in ((0, 0), (2.9, 0), (3, 1), (6, 2), (170.9, 56))),
        *(("squeezenet1_0", e, r) for e, r in ((0, 3.75e-3), (75, 2.1875e-3), (120, 1.25e-3))),
    ],
)
@pytest.mark.parametrize(("profile", "larger"), [("paper", 8), ("imagenette", 1), ("laptop", 0.25)])
def test_learning_rates_at_every_boundary_are_the_papers_in_proportion_to_the_batch(
    network: str, epoch: float, expected: float, profile: str, larger: float
):
    setting = preset(network, profile=profile).setting
    assert setting.batch_size == 128 * larger
    if profile == "laptop":
        larger = {"resnet50": 8 / 16, "squeezenet1_0": 8 / 5}.get(network, larger)
    updates = setting.iterations / {"resnet50": 90, "inception_v3": 171, "squeezenet1_0": 150}[network]
    assert learning_rate(setting, round(epoch * updates)) == pytest.approx(larger * expected, rel=2e-3, abs=1e-12)


PAPER: dict[str, dict[str, object]] = {
    "resnet50": {"optimizer": "momentum", "weight_decay": 1e-4, "learning_rate": 0.4},
    "inception_v3": {"optimizer": "rmsprop", "weight_decay": 4e-5, "learning_rate": 0.66, "label_smoothing": 0.1,
                     "weight_average": 0.995},
    "squeezenet1_0": {"optimizer": "nesterov", "weight_decay": 2e-4, "learning_rate": 0.03,
                      "final_learning_rate": 0.005},
}  # fmt: skip
REWOUND_TO = {"resnet50": 6 / 90, "inception_v3": 8 / 171, "squeezenet1_0": 10 / 150}


@every_network
def test_the_paper_profile_is_the_corrected_table_and_imagenet_in_the_papers_batches(network: str):
    study = preset(network)
    setting, extent = study.setting, study.extent
    others = {"label_smoothing": 0.0, "weight_average": 0.0, "final_learning_rate": None}
    always = {"momentum": 0.9, "augment": True, "smallest_crop": 0.08, "pruning_scope": "global", "prune_output": False,
              "densities": (0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05), "dataset": "imagenet", "classes": 1_000,
              "batch_size": 1_024}  # fmt: skip
    inception = {"image_size": 299, "auxiliary_loss": 0.4}
    sizes = inception if network == "inception_v3" else {"image_size": 224, "auxiliary_loss": 0}
    expected = others | always | sizes | PAPER[network]
    assert {name: getattr(setting, name) for name in expected} == expected
    epochs = {"resnet50": 90, "inception_v3": 171, "squeezenet1_0": 150}[network]
    assert setting.iterations == epochs * (round(1_281_167 * 0.95) // 1_024)
    assert extent.rewinds == (0, round(REWOUND_TO[network] * setting.iterations))
    compared = [setting.densities[level - 1] for level in extent.compared]
    assert compared == [0.5 if network == "squeezenet1_0" else 0.3]


@every_network
@pytest.mark.parametrize("profile", ["paper", "imagenette", "laptop"])
def test_claims_are_about_the_size_of_the_papers_figure_7_and_networks_that_a_study_trains(network: str, profile: str):
    study = preset(network, profile=profile)
    setting = study.setting
    assert setting.densities is not None
    percent = {"resnet50": 30, "inception_v3": 30, "squeezenet1_0": 50}[network]
    found = [claim for claim in read() if (claim.network, claim.profile) == (network, profile)]
    assert any(claim.source.startswith("section 5, Figures 7") for claim in found)
    for claim in found:
        assert [setting.densities[level - 1] for level in claim.at] == [percent / 100], claim.claim
        assert f" {percent}% of the weights" in claim.text, claim.claim
        rewinds = {term.rewind for term in parse(claim.effect) if term.method != "dense"}
        assert max(rewinds) > 0, claim.claim
        assert rewinds <= set(study.extent.rewinds), claim.claim
