"""The ImageNet networks, their schedules by hand, one-shot pruning in a study, and Imagenette's folder of images."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from doubles import StopAt, write_imagenette
from PIL import Image

from lth_core import Mask, one_shot_pruning
from lth_core.imp import subnetwork
from lth_study import data, preset, run, worker
from lth_study.data.image_folders import IMAGENETTE as CLASSES
from lth_study.data.image_folders import load_imagenette
from lth_study.data.parts import DataError, Dataset, Split
from lth_study.networks import build, initial_weights
from lth_study.networks.imagenet import ImageNetNetwork
from lth_study.plan import missing, trainings
from lth_study.records import known, store_folder
from lth_study.report.claims import read
from lth_study.report.effects import parse
from lth_study.settings import Setting, SettingError
from lth_study.store import StudyStore, Training, dense
from lth_study.training import Stopped
from lth_study.training.train import train, trainer
from lth_study.training.updates import State, learning_rate

NETWORKS = ("resnet50", "inception_v3", "squeezenet1_0")
every_network = pytest.mark.parametrize("network", NETWORKS)
SMOKE = preset("squeezenet1_0", profile="smoke").setting

# Networks


@pytest.mark.parametrize(
    ("network", "parameters", "papers_millions", "convolutions"),
    [
        ("resnet50", 25_557_032, 25.5, 23_454_912),
        ("inception_v3", 27_161_264, 27.1, 21_751_136),
        ("squeezenet1_0", 1_248_424, 1.25, 732_448),
    ],
)
def test_parameters_are_as_many_as_in_the_paper(network, parameters, papers_millions, convolutions):
    with torch.device("meta"):
        model = ImageNetNetwork(network, classes=1_000, auxiliary=network == "inception_v3")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert parameters / 1e6 == pytest.approx(papers_millions, abs=0.07)
    named = dict(model.named_parameters())
    assert sum(named[name].numel() for name in model.prunable()) == convolutions
    assert not any("AuxLogits" in name or named[name].dim() != 4 for name in model.prunable())


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_a_narrow_resnet_50_has_narrow_bottlenecks_and_as_many_channels_between_them(width: float):
    with torch.device("meta"):
        model = build(preset("resnet50", profile="smoke").setting.updated(width=width))
    expected, before = 7 * 7 * 3 * 64, 64
    for planes, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        inner, after = round(planes * width), 4 * planes
        for block in range(blocks):
            expected += before * inner + 9 * inner**2 + inner * after + (before * after if block == 0 else 0)
            before = after
    named = dict(model.named_parameters())
    assert sum(named[name].numel() for name in model.prunable()) == expected


@pytest.mark.parametrize("width", [1 / 16, 0.25, 0.5])
def test_a_narrow_inception_v3_has_every_layer_of_the_whole_one_narrower(width: float):
    with torch.device("meta"):
        whole, narrow = (ImageNetNetwork("inception_v3", auxiliary=True, width=factor) for factor in (1.0, width))
    shapes = {name: list(parameter.shape) for name, parameter in whole.named_parameters()}
    for name, shape in shapes.items():
        fixed_inputs = name == "body.Conv2d_1a_3x3.conv.weight"
        outputs = shape[0] if ".fc." in name else width * shape[0]
        inputs = [] if len(shape) == 1 else [shape[1] if fixed_inputs else width * shape[1]]
        shapes[name] = [outputs, *inputs, *shape[2:]]
    assert {name: list(parameter.shape) for name, parameter in narrow.named_parameters()} == shapes


def test_a_narrow_inception_v3_is_initialised_as_the_whole_one_is_and_computes_logits():
    narrow = ImageNetNetwork("inception_v3", auxiliary=True, width=0.25)
    narrow.initialise(torch.Generator().manual_seed(3))
    body = narrow.body
    for weights, deviation in (
        (body.fc.weight, 0.1),
        (body.AuxLogits.fc.weight, 0.001),
        (body.Mixed_7c.branch1x1.conv.weight, 0.1),
    ):
        assert weights.std().item() == pytest.approx(deviation, rel=0.1)
    logits, auxiliary = narrow(torch.randint(256, (2, 3, 299, 299), dtype=torch.uint8))
    assert logits.shape == auxiliary.shape == (2, 10)
    assert logits.isfinite().all()
    assert auxiliary.isfinite().all()


@pytest.mark.parametrize(
    ("network", "output"),
    [("resnet50", "body.fc.weight"), ("inception_v3", "body.fc.weight"), ("squeezenet1_0", "body.classifier.1.weight")],
)
def test_the_output_layer_is_pruned_where_that_is_asked_for(network, output):
    with torch.device("meta"):
        left, pruned = (
            build(preset(network, profile="smoke").setting.updated(prune_output=yes)) for yes in (False, True)
        )
    assert set(pruned.prunable()) - set(left.prunable()) == {output}


def test_initial_weights_are_a_function_of_their_stream():
    first, second, other = (initial_weights(SMOKE, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["body.features.0.weight"], other["body.features.0.weight"])


def test_pixels_are_standardised_by_imagenets():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    black, white = ImageNetNetwork("squeezenet1_0").scaled(images).flatten(1).double()
    assert black.tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], rel=1e-6)
    assert white.tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rel=1e-6)


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        ("squeezenet1_0", {"image_size": 20}, "image_size: 20 is too small for squeezenet1_0; choose 21 or more"),
        ("inception_v3", {"image_size": 74}, "image_size: 74 is too small for inception_v3; choose 75 or more"),
        (
            "inception_v3",
            {"auxiliary_loss": 0.4},
            "75 is too small for inception_v3 and its auxiliary head",
        ),
        ("resnet50", {"auxiliary_loss": 0.4}, "auxiliary_loss: 0.4 is not a setting of resnet50"),
        ("squeezenet1_0", {"width": 0.5}, "width: 0.5 is not a setting of squeezenet1_0"),
        ("inception_v3", {"width": 0.3}, "width: 0.3 must be a multiple of 1/16 for inception_v3"),
        ("resnet50", {"levels": 2}, "levels: 2 is more than the 1 densities"),
        ("resnet50", {"densities": (0.5, 1.5)}, r"densities: \[0.5, 1.5\] must be fractions to keep"),
    ],
)
def test_settings_that_a_network_cannot_take_are_refused(network, changes, message):
    with pytest.raises(SettingError, match=message):
        preset(network, profile="smoke").setting.updated(**changes)


# Training

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
def test_the_paper_profile_is_the_corrected_table(network: str):
    setting = preset(network).setting
    others = {"label_smoothing": 0.0, "weight_average": 0.0, "final_learning_rate": None}
    expected = others | PAPER[network] | {"momentum": 0.9, "augment": True, "smallest_crop": 0.08}
    assert {name: getattr(setting, name) for name in expected} == expected
    assert setting.densities == (0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
    assert (setting.pruning_scope, setting.pruning_rate, setting.prune_output) == ("global", 0.2, False)
    assert setting.rewinds == (0, round(REWOUND_TO[network] * setting.iterations))
    assert (setting.densities[setting.compared[0] - 1], len(setting.compared)) == (
        0.5 if network == "squeezenet1_0" else 0.3,
        1,
    )
    dropout = [module.p for module in build(setting).modules() if isinstance(module, torch.nn.Dropout)]
    assert dropout == [0.5] * (network != "resnet50")


@every_network
def test_the_paper_profile_is_imagenet_in_the_papers_batches(network: str):
    setting = preset(network).setting
    assert (setting.dataset, setting.classes, setting.batch_size) == ("imagenet", 1_000, 1_024)
    assert setting.image_size == (299 if network == "inception_v3" else 224)
    assert setting.auxiliary_loss == (0.4 if network == "inception_v3" else 0)
    epochs = {"resnet50": 90, "inception_v3": 171, "squeezenet1_0": 150}[network]
    assert setting.iterations == epochs * (round(1_281_167 * 0.95) // 1_024)


def few_images(count: int = 24, side: int = 32) -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    part = Split(images, torch.randint(0, 10, (count,), generator=generator))
    return Dataset("few", part, part, part)


def test_dropout_is_the_same_for_the_same_seed_resumed_or_not_and_other_in_another_order():
    images, ones = few_images(), Mask.ones(build(SMOKE))
    start = initial_weights(SMOKE, torch.Generator().manual_seed(1))

    def end(first: int, weights: State, order: int = 0, stop: int | None = None) -> State:
        return train(SMOKE, images, subnetwork(weights, ones, first, 0), replicate=1, order=order, stop=stop).state

    whole = end(0, start)
    resumed = end(2, end(0, start, stop=2))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["body.features.0.weight"], end(0, start, order=1)["body.features.0.weight"])


MOMENTS = {
    "momentum": {"optimizer.momentum_buffer", "optimizer.average", "optimizer.updates"},
    "nesterov": {"optimizer.momentum_buffer", "optimizer.average", "optimizer.updates"},
    "rmsprop": {"optimizer.momentum_buffer", "optimizer.square_avg", "optimizer.average", "optimizer.updates"},
}


@every_network
def test_stopped_in_an_epoch_and_resumed_from_the_file_gives_the_same_bits(network: str, tmp_path: Path):
    """Optimiser, average of the weights and dropout go on where they were; three batches of 8 are an epoch."""
    setting = preset(network, profile="smoke").setting.updated(
        weight_average=0.9, learning_rate=0.005, final_learning_rate=None
    )
    images, ones = few_images(side=setting.image_size or 0), Mask.ones(build(setting))
    ticket = subnetwork(initial_weights(setting, torch.Generator().manual_seed(1)), ones, 0, 0)
    which: dict[str, int] = {"replicate": 1, "order": 0}
    whole = train(setting, images, ticket, **which)
    folder, asked = StudyStore(tmp_path, setting).saves(dense(1)), StopAt()
    with pytest.raises(Stopped):
        train(setting, images, ticket, **which, saves=folder, stop_requested=StopAt(2))
    iteration, _, kept = folder.load_checkpoint() or pytest.fail("no checkpoint")
    assert iteration == 2
    assert {name for name in kept if name.startswith("optimizer.")} == MOMENTS[setting.optimizer]
    resumed = train(setting, images, ticket, **which, saves=folder, stop_requested=asked)
    assert asked.calls == setting.iterations - 2
    assert resumed.metrics == whole.metrics
    assert resumed.state.keys() == whole.state.keys() == kept.keys()
    for name, tensor in whole.state.items():
        assert torch.equal(resumed.state[name], tensor), name
        assert not torch.equal(kept[name], tensor), name


# One-shot pruning in a study

SURVIVORS = {
    "resnet50": (18_763_930, 16_418_438, 11_727_456, 7_036_474, 4_690_982, 2_345_491, 1_172_746),
    "squeezenet1_0": (585_958, 512_714, 366_224, 219_734, 146_490, 73_245, 36_622),
}
"""What is left of 23,454,912 and of 732,448 weights when round((1 - density) x weights) are pruned."""


@pytest.mark.parametrize("network", SURVIVORS)
def test_one_shot_pruning_keeps_exactly_the_largest_weights_at_the_papers_densities(network: str):
    setting = preset(network).setting
    with torch.device("meta"):
        named = dict(build(setting).named_parameters())
        shapes = {name: named[name].shape for name in build(setting).prunable()}
    chance = torch.Generator().manual_seed(3)
    weights = {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}
    magnitudes = np.abs(np.concatenate([weight.numpy().ravel() for weight in weights.values()]))
    ranked = np.sort(magnitudes)
    levels = one_shot_pruning(
        lambda ticket, stop: (ticket.weights, None), weights, Mask.ones(weights), densities=setting.densities or ()
    )
    counts = []
    for level in list(levels)[1:]:
        kept = np.concatenate([level.mask[name].numpy().ravel() for name in weights])
        counts.append(int(kept.sum()))
        assert magnitudes[kept].min() == ranked[-counts[-1]]
        assert magnitudes[~kept].max() == ranked[-counts[-1] - 1]
    assert tuple(counts) == SURVIVORS[network]
    for count, density in zip(counts, ("0.8", "0.7", "0.5", "0.3", "0.2", "0.1", "0.05"), strict=True):
        assert count == len(ranked) - round((1 - Fraction(density)) * len(ranked))


ONE_SHOT = SMOKE.updated(densities=(0.6, 0.2), levels=2, methods=("imp",), orders=1)


def test_a_study_prunes_once_to_each_density():
    records = run(ONE_SHOT)
    setting = ONE_SHOT
    store = StudyStore(store_folder(), setting)
    end = store.saves(dense(1)).load_end()
    masks = [store.saves(Training(1, "imp", 2, level, 0)).load_mask() for level in (1, 2)]
    names = build(setting).prunable()
    scores = torch.cat([end[name].abs().flatten() for name in names]).double()
    for mask, density in zip(masks, (0.6, 0.2), strict=True):
        kept = torch.cat([mask[name].flatten() for name in names])
        count = len(scores) - round((1 - density) * len(scores))
        assert int(kept.sum()) == count
        assert scores[kept].min() >= scores[~kept].max()  # the largest magnitudes of the dense network, at every level
    levels = records[records["method"] == "imp"].groupby("level")["density"].first()
    assert levels.tolist() == pytest.approx([0.6, 0.2], abs=1e-5)


@pytest.mark.parametrize("none", [None, ()])
def test_without_densities_every_level_prunes_a_fifth_of_what_is_left(none):
    setting = SMOKE.updated(densities=none, levels=2, compared_levels=(), methods=("imp",), orders=1)
    records = run(setting)
    total = sum(weight.numel() for weight in Mask.ones(build(setting)).values())
    first = total - round(0.2 * total)
    kept = [total, first, first - round(0.2 * first)]
    assert (records.groupby("level")["density"].first() * total).tolist() == pytest.approx(kept, abs=0.5)


@every_network
@pytest.mark.parametrize("profile", ["paper", "imagenette", "laptop"])
def test_claims_are_about_the_size_of_the_papers_figure_7_and_networks_that_a_study_trains(network: str, profile: str):
    setting = preset(network, profile=profile).setting
    assert setting.densities is not None
    percent = {"resnet50": 30, "inception_v3": 30, "squeezenet1_0": 50}[network]
    found = [claim for claim in read() if (claim.network, claim.profile) == (network, profile)]
    assert any(claim.source.startswith("section 5, Figures 7") for claim in found)
    for claim in found:
        assert [setting.densities[level - 1] for level in claim.at] == [percent / 100], claim.claim
        assert f" {percent}% of the weights" in claim.text, claim.claim
        rewinds = {term.rewind for term in parse(claim.effect) if term.method != "dense"}
        assert max(rewinds) > 0, claim.claim
        assert rewinds <= set(setting.rewinds), claim.claim


def test_a_level_that_diverges_keeps_no_other_density_from_being_trained(monkeypatch):
    def diverges_at_the_first_level(setting, images, ticket, **options):
        trained = train(setting, images, ticket, **options)
        return replace(trained, metrics={}, diverged_at=3) if ticket.level == 1 else trained

    monkeypatch.setattr(worker, "train", diverges_at_the_first_level)
    store = StudyStore(store_folder(), ONE_SHOT)
    store.prepare()
    worker.Worker(store).complete(trainings(ONE_SHOT))
    rows = known(store)[0]
    assert set(rows.loc[rows["metric"] == "test_accuracy", "level"]) == {0, 2}
    assert set(rows.loc[rows["metric"] == "diverged", "level"]) == {1}
    assert [training for training in missing(rows, ONE_SHOT) if not training.again] == []
    second = rows[rows["level"] != 2]
    assert {training.level for training in missing(second, ONE_SHOT)} == {2}


def test_the_average_of_weights_is_what_is_evaluated_and_the_weights_are_what_is_kept():
    images, ones = few_images(), Mask.ones(build(SMOKE))
    setting = SMOKE.updated(weight_average=0.9, learning_rate=0.05, final_learning_rate=None)
    ticket = subnetwork(initial_weights(setting, torch.Generator().manual_seed(1)), ones, 0, 0)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lth_study.training.train.accuracies", lambda model, *_: seen.append(copied(model)) or [50.0, 90.0]
        )
        kept = train(setting, images, ticket, replicate=1, order=0).state
    evaluated = seen[0]["body.features.0.weight"]
    average = kept["optimizer.average"][: evaluated.numel()].view(96, 7, 7, 3).permute(0, 3, 1, 2)
    assert torch.equal(evaluated, average)
    assert not torch.equal(evaluated, kept["body.features.0.weight"])


def copied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_training_function_of_ours_fits_one_shot_pruning():
    start, ones = initial_weights(SMOKE, torch.Generator().manual_seed(1)), Mask.ones(build(SMOKE))
    levels = list(one_shot_pruning(trainer(SMOKE, few_images(), replicate=1), start, ones, densities=[0.5], rewind=1))
    assert [round(level.mask.density, 3) for level in levels] == [1.0, 0.5]
    assert not any(levels[1].trained[name][~levels[1].mask[name]].any() for name in ones)


# Imagenette


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_imagenette(tmp_path)
    return tmp_path


def test_images_are_scaled_to_the_size_and_cut_to_the_square_in_the_middle(folder: Path):
    images = load_imagenette(folder, 10)
    assert (len(images.train), len(images.validation), len(images.test)) == (19, 1, 20)
    assert images.test.images.shape == (20, 3, 10, 10)
    for square, label in zip(images.test.images, images.test.labels.tolist(), strict=True):
        assert set(square[0].flatten().tolist()) == {20 * label}
        assert set(square[1].flatten().tolist()) == {100}
    everything = torch.cat([images.train.labels, images.validation.labels]).sort().values.tolist()
    assert everything == [label for label in range(10) for _ in range(2)]


def test_squares_are_made_once_for_a_size_and_again_when_an_image_changes(folder: Path, monkeypatch):
    from lth_study.data import image_folders

    decoded = []
    square = image_folders.square
    monkeypatch.setattr(image_folders, "square", lambda file, size: decoded.append(file) or square(file, size))
    first, again = load_imagenette(folder, 10), load_imagenette(folder, 10)
    assert len(decoded) == 40
    assert first.fingerprint() == again.fingerprint()
    load_imagenette(folder, 12)
    assert len(decoded) == 80
    Image.new("RGB", (40, 21), "black").save(folder / "imagenette" / "val" / CLASSES[0] / "0.png")
    assert load_imagenette(folder, 10).fingerprint() != first.fingerprint()


def test_everything_wrong_with_the_folder_is_listed(folder: Path):
    root = folder / "imagenette"
    for file in (root / "val" / CLASSES[3]).iterdir():
        file.unlink()
    (root / "train" / "n99999999").mkdir()
    with pytest.raises(DataError) as refused:
        load_imagenette(folder, 10)
    assert f"val/{CLASSES[3]}: no images of this class" in str(refused.value)
    assert "train/n99999999: not one of the 10 classes" in str(refused.value)


def test_every_damaged_image_is_named_and_nothing_is_kept(folder: Path):
    root = folder / "imagenette"
    whole = (root / "train" / CLASSES[1] / "0.png").read_bytes()
    (root / "train" / CLASSES[1] / "0.png").write_bytes(whole[: len(whole) // 2])
    (root / "val" / CLASSES[2] / "1.png").write_text("no image")
    with pytest.raises(DataError) as refused:
        load_imagenette(folder, 10)
    assert f"train/{CLASSES[1]}/0.png: not a readable image" in str(refused.value)
    assert f"val/{CLASSES[2]}/1.png: not a readable image" in str(refused.value)
    assert list(root.glob(".decoded*")) == []


def test_without_imagenette_the_embedded_images_stand_in_and_it_is_said():
    with pytest.warns(UserWarning, match="Imagenette is not in .* and cannot be downloaded"):
        assert data.resolve("imagenette") == "mnist_embedded"


@every_network
def test_profiles_differ_in_length_and_size_and_build(network: str):
    profiles = [preset(network, profile=name).setting for name in ("paper", "imagenette", "laptop", "smoke")]
    assert len({setting.digest() for setting in profiles}) == 4
    for setting in profiles:
        assert Setting.from_json(setting.to_json()) == setting
        with torch.device("meta"):
            assert build(setting).prunable()
