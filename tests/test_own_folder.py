"""A user's own folder of images: its name and fingerprint, its faults, and training on it."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Lth
from doubles import write_images
from PIL import Image

from lth_study import DataError, SettingError, configure, data, preset, run
from lth_study.commands import command_for
from lth_study.data import own_folder
from lth_study.data.image_files import load_imagenet
from lth_study.extents import Study
from lth_study.networks import build
from lth_study.records import export_store, store_folder
from lth_study.settings import Setting
from lth_study.units import units

CLASSES = ("daisy", "rose", "tulip")
PARTS = {"train": 16, "val": 4}
SMOKE = preset("resnet20", profile="smoke").only("stability")
ONE = SMOKE.updated(levels=1, rewinds=(0,), methods=("imp",), orders=1, barriers=False)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    return write_images(tmp_path / "secret place" / "flowers", PARTS, CLASSES, 80)


def given(folder: Path, study: Study = ONE, **changes: object) -> Study:
    return study.updated(dataset=f"folder:{folder}", **changes)


# Its name


def fingerprint(folder: Path) -> str:
    """By the words of the documentation: part, class, name and content of every file, in order."""
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*.png"), key=lambda file: (list(PARTS).index(file.parts[-3]), file.parts[-2:])):
        head = f"{file.parts[-3]}\n{file.parts[-2]}\n{file.name}\n".encode()
        whole.update(hashlib.sha256(head + file.read_bytes()).digest())
    return whole.hexdigest()[:16]


def test_a_study_has_the_folders_name_the_fingerprint_and_as_many_classes(flowers: Path):
    setting = given(flowers).setting
    assert setting.dataset == f"flowers@{fingerprint(flowers)}"
    assert setting.classes == 3
    assert "secret" not in setting.to_json() + setting.name
    assert Setting.from_json(setting.to_json()) == setting


def test_the_place_does_not_count_and_every_file_does(flowers: Path, tmp_path: Path):
    first = given(flowers).setting
    copied = Path(shutil.copytree(flowers, tmp_path / "elsewhere" / "flowers"))
    assert given(copied).setting == first
    (copied / "train" / "rose" / "03.png").rename(copied / "train" / "rose" / "99.png")
    renamed = given(copied).setting
    Image.new("RGB", (40, 20)).save(copied / "train" / "rose" / "99.png")
    assert len({setting.digest() for setting in (first, renamed, given(copied).setting)}) == 3


def test_a_folder_may_be_given_relative_to_here_or_to_home(flowers: Path, monkeypatch: pytest.MonkeyPatch):
    expected = given(flowers)
    monkeypatch.chdir(flowers)
    monkeypatch.setenv("HOME", str(flowers.parent))
    for path in (".", "../flowers/", "~/flowers"):
        assert given(Path(path)) == expected


def test_odd_characters_are_left_out_of_the_name(flowers: Path):
    odd = flowers.rename(flowers.with_name("My photos, 2/3: fünf".replace("/", "")))
    assert given(odd).setting.dataset.partition("@")[0] == "My_photos__23__fünf"
    assert given(odd.rename(odd.with_name("x" * 200))).setting.dataset.partition("@")[0] == "x" * 40


@pytest.mark.parametrize("network", ["resnet20", "vgg19", "resnet50", "inception_v3", "squeezenet1_0"])
def test_every_convolutional_network_has_an_output_for_each_class(network: str, flowers: Path):
    setting = given(flowers, preset(network, profile="smoke").only("stability")).setting
    side = setting.image_size
    with torch.no_grad():
        assert build(setting).eval()(torch.zeros(2, 3, side, side, dtype=torch.uint8)).shape == (2, 3)


def test_a_name_that_no_data_set_has_is_refused():
    for name in ("folder:/x", "flowers@0123", "flowers", "a/b@0123456789abcdef"):
        with pytest.raises(SettingError, match=f"dataset: '{name}' is unknown; known: 'mnist', .*'folder:PATH'"):
            SMOKE.setting.updated(dataset=name)


# Its images


def test_of_two_parts_the_second_is_for_testing_and_some_training_images_are_held_out(flowers: Path):
    images = data.load(given(flowers).setting.dataset, color=True, size=10)
    assert (len(images.train), len(images.validation), len(images.test)) == (46, 2, 12)
    for part in (images.train, images.validation, images.test):
        assert part.images.shape[1:] == (3, 10, 10)
        for square, label in zip(part.images, part.labels.tolist(), strict=True):
            assert set(square[0].flatten().tolist()) == {80 * label}
            assert set(square[1].flatten().tolist()) == {100}
    assert sorted(images.train.images[:, 2, 0, 0].tolist() + images.validation.images[:, 2, 0, 0].tolist()) == sorted(
        [number for number in range(16) for _ in CLASSES]
    )


@pytest.mark.parametrize(
    ("parts", "sizes"), [({"val": 2, "test": 3}, (48, 6, 9)), ({"test": 3}, (46, 2, 9))], ids=["all three", "no val"]
)
def test_with_all_three_parts_validation_has_its_own_and_nothing_is_held_out(
    parts: dict[str, int], sizes: tuple[int, ...], tmp_path: Path
):
    folder = write_images(tmp_path / "flowers", {"train": 16, **parts}, CLASSES, 80)
    images = data.load(given(folder).setting.dataset, color=True)
    assert (len(images.train), len(images.validation), len(images.test)) == sizes
    assert images.train.images.shape[1:] == data.image_shape(images.name, color=True) == (3, 32, 32)
    assert given(folder, batch_size=sizes[0]).setting.batch_size == sizes[0]
    assert f"expected {sizes[0] + 1} or more (batch_size)" in refusal(folder, batch_size=sizes[0] + 1)


def test_images_are_read_once_until_a_file_changes(flowers: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[Path] = []
    pixels = own_folder.pixels
    monkeypatch.setattr(own_folder, "pixels", lambda file: read.append(file) or pixels(file))
    given(flowers)
    given(flowers)
    assert len(read) == 60
    (flowers / "val" / "rose" / "00.png").unlink()
    given(flowers)
    assert len(read) == 60 + 59
    assert len(list(flowers.glob(".fingerprint-*"))) == 1


def test_what_imagenet_found_whole_is_given_a_fingerprint_of_its_own(flowers: Path):
    folder = flowers.rename(flowers.with_name("imagenet"))
    load_imagenet(folder.parent, 24)
    name = given(folder).setting.dataset
    assert name == f"imagenet@{fingerprint(folder)}"
    assert {file.name.split("-")[0] for file in folder.glob(".*-*")} == {".checked", ".fingerprint"}


def test_a_folder_that_is_not_known_or_has_changed_is_not_loaded(flowers: Path, monkeypatch: pytest.MonkeyPatch):
    name = given(flowers).setting.dataset
    (flowers / "val" / "rose" / "00.png").unlink()
    with pytest.raises(DataError, match=rf"flowers has changed: it was {name} and is flowers@.*'folder:{flowers}'"):
        data.load(name, color=True)
    monkeypatch.delenv(f"LTH_FOLDER_{name}")
    with pytest.raises(DataError, match=f"where {name} lies is not known; give its path, as dataset 'folder:PATH'"):
        data.load(name, color=True)


# Its faults


def refusal(folder: Path, **changes: object) -> str:
    with pytest.raises(DataError) as refused:
        given(folder, **changes)
    return str(refused.value)


def test_all_faults_are_listed_at_once(flowers: Path):
    whole = (flowers / "train" / "daisy" / "00.png").read_bytes()
    (flowers / "train" / "daisy" / "00.png").write_bytes(b"")
    (flowers / "train" / "daisy" / "01.png").write_bytes(whole[: len(whole) // 2])
    (flowers / "train" / "rose" / "notes.txt").write_text("no image")
    (flowers / "train" / "readme.txt").write_text("no class")
    shutil.rmtree(flowers / "val" / "tulip")
    (flowers / "val" / "orchid").mkdir()
    (flowers / "val" / "daisy" / "nested").mkdir()
    message = refusal(flowers, batch_size=64)
    assert str(flowers) in message
    lines = message.splitlines()[1:]
    expected = [
        "train/orchid: no images of this class",
        "train/readme.txt: not one of the 4 classes",
        "val/orchid: no images of this class",
        "val/tulip: no images of this class",
        "train: 49 images leave 47 to train on; expected 64 or more (batch_size)",
        "train/daisy/00.png: not a readable image",
        "train/daisy/01.png: not a readable image",
        "train/rose/notes.txt: not a readable image",
        "val/daisy/nested: not a readable image",
    ]
    assert len(lines) == len(expected)
    assert [line for line, start in zip(lines, expected, strict=True) if not line.strip().startswith(start)] == []
    assert list(flowers.glob(".fingerprint-*")) == []
    assert not store_folder().exists()


def test_missing_parts_folders_and_classes_are_named(flowers: Path):
    assert "no part is there; expected train and val or test\n  0 classes; expected 2" in refusal(flowers / "val")
    for path in (flowers / "nowhere", flowers / "train" / "rose" / "00.png"):
        assert f"{path} is not a folder; expected one with images in train/<class>/*" in refusal(path)
    for part in PARTS:
        for name in CLASSES[1:]:
            shutil.rmtree(flowers / part / name)
    assert "1 classes; expected 2 or more" in refusal(flowers, batch_size=1)
    (flowers / "train").rename(flowers / "test")
    assert "val and test is there; expected train and val or test" in refusal(flowers)


def test_settings_that_are_wrong_for_a_folder_are_refused(flowers: Path, tmp_path: Path):
    with pytest.raises(SettingError, match="batch_size: 'x' is not valid"):
        given(tmp_path / "nowhere", batch_size="x")
    with pytest.raises(SettingError, match="classes: the network has 5, and the folder flowers has 3"):
        run(given(flowers, classes=5))
    with pytest.raises(SettingError, match="has colour images, and lenet_300_100 takes grey ones; choose a conv"):
        given(flowers, preset("lenet_300_100", profile="smoke"), batch_size=8)


def test_notebooks_and_commands_refuse_faults_before_training(flowers: Path, lth: Lth):
    (flowers / "val" / "rose" / "00.png").write_bytes(b"")
    asked = {"network": "resnet20", "profile": "smoke", "dataset": f"folder:{flowers}"}
    with pytest.raises(DataError, match=r"val/rose/00\.png: not a readable image"):
        configure(asked)
    failed = lth("run", "resnet20", "--profile", "smoke", "--dataset", f"folder:{flowers}")
    assert failed.status == 2
    assert "val/rose/00.png: not a readable image" in failed.err
    assert not store_folder().exists()


# Training


def test_a_network_trains_on_the_folder_and_its_records_hold_no_path(flowers: Path, tmp_path: Path):
    records = run(given(flowers), workers=1)
    assert set(records["dataset"]) == {f"flowers@{fingerprint(flowers)}"}
    assert set(records["method"]) == {"dense", "imp"}
    export_store(store_folder(), tmp_path / "exported")
    written = [*(tmp_path / "exported").rglob("*"), *store_folder().rglob("*.json")]
    assert len([file for file in written if file.is_file()]) > 4
    assert [file for file in written if "secret" in file.name] == []
    assert [file for file in written if file.is_file() and b"secret" in file.read_bytes()] == []


def test_processes_that_train_side_by_side_find_the_folder(flowers: Path):
    study = given(flowers, replicates=2)
    assert len(run(study, workers=2).query("method == 'imp' and metric == 'test_accuracy'")) == 2


def test_a_command_names_the_folder_and_a_unit_of_work_is_told_where_it_lies(flowers: Path):
    command = command_for(given(flowers))
    assert command is not None
    assert "--dataset folder:PATH/flowers " in command + " "
    assert "--set 'classes=3'" in command
    (unit,) = units([SMOKE.updated(dataset=f"folder:{flowers}")])
    assert unit.arguments[unit.arguments.index("--dataset") + 1] == f"folder:{flowers}"


def test_the_command_line_trains_on_a_folder_and_says_what_is_recorded(flowers: Path, lth: Lth):
    options = ("resnet20", "--profile", "smoke", "--figure", "stability", "--levels", "0", "--orders", "1")
    folder = ("--dataset", f"folder:{flowers}")
    assert lth("run", *options, *folder).status == 0
    name = f"flowers@{fingerprint(flowers)}"
    for dataset in (folder, ("--dataset", name, "--set", "classes=3")):
        shown = lth("status", *options, *dataset).out
        assert f"-{name}-" in shown
        assert "1 of 1 trainings recorded" in shown
