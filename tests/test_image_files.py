"""ImageNet in its files: the same samples whoever reads them, and everything wrong with a folder found at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from doubles import write_imagenet
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from lth_study import data, preset, run
from lth_study.data import image_files
from lth_study.data.augmentation import boxes, flipped
from lth_study.data.image_files import load_imagenet
from lth_study.data.parts import DataError, Part
from lth_study.files import StoreError
from lth_study.seeds import epoch_crops, epoch_order
from lth_study.settings import Setting, SettingError
from lth_study.training.evaluation import evaluation_batches
from lth_study.training.steps import training_batches

STUDY = (
    preset("squeezenet1_0", profile="smoke")
    .only("stability")
    .updated(dataset="imagenet", classes=3, batch_size=4, augment=True, smallest_crop=0.3, image_size=24)
)
DENSE = STUDY.updated(levels=0, orders=1)
SETTING = STUDY.setting


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data folder."""
    write_imagenet(tmp_path / "data")
    return tmp_path / "data"


def epoch(setting: Setting, part: Part, first: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(training_batches(setting, part, replicate=1, order=2, epoch=3, first=first))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores are fine here
def test_any_number_of_reading_processes_gives_the_same_samples_and_goes_on_where_an_epoch_was_interrupted(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    part = load_imagenet(root, 24).train
    epochs = []
    for readers, first in (("0", 0), ("1", 9), ("4", 0)):
        monkeypatch.setenv("LTH_READERS", readers)
        epochs.append(epoch(SETTING, part, first))
    whole, rest, same = epochs
    assert (len(whole), len(rest)) == (len(part) // 4, 5)
    for one, other in (*zip(whole, same, strict=True), *zip(whole[9:], rest, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_samples_are_torchvisions_crops_of_the_files(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_READERS", "0")
    part = load_imagenet(root, 24).train
    images = torch.cat([images for images, _ in epoch(SETTING, part)])
    draws = epoch_crops(1, 2, 3, len(part))
    for ours, index in zip(images, epoch_order(1, 2, 3, len(part)).tolist(), strict=False):
        with Image.open(part.files[index]) as file:
            pixels = TF.pil_to_tensor(file)
        box = boxes(draws[[index]], *pixels.shape[1:], 0.3)[0].tolist()
        expected = TF.resize(TF.crop(pixels, *box), [24, 24], antialias=True)
        assert torch.equal(ours, TF.horizontal_flip(expected) if flipped(draws)[index] else expected)


def test_evaluation_sees_every_image_once_in_order_the_square_in_its_middle(root: Path):
    images = load_imagenet(root, 24)
    seen, labels = map(torch.cat, zip(*evaluation_batches(images.test), strict=True))
    assert seen.shape == (15, 3, 24, 24)
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    with Image.open(images.test.files[7]) as file:
        scaled = TF.resize(TF.pil_to_tensor(file), [27], antialias=True)  # 24 * 256 / 224, rounded
    assert torch.equal(seen[7], TF.center_crop(scaled, [24]))


def test_the_parts_share_no_file_and_hold_every_one(root: Path):
    images = load_imagenet(root, 24)
    assert (len(images.train), len(images.validation), len(images.test)) == (57, 3, 15)
    files = [*images.train.files, *images.validation.files]
    assert len(set(files)) == 60
    labels = torch.cat([images.train.labels, images.validation.labels]).tolist()
    assert [file.parent.name for file in files] == [f"n{label + 1}" for label in labels]


def test_of_a_handful_of_images_one_is_held_out(root: Path):
    for file in (root / "imagenet" / "train").glob("*/*"):
        if file.stem not in "01":
            file.unlink()
    images = load_imagenet(root, 24)
    assert (len(images.train), len(images.validation)) == (5, 1)


def test_a_fingerprint_changes_with_a_file_and_not_with_the_place(root: Path):
    before = load_imagenet(root, 24).fingerprint()
    assert load_imagenet(root.rename(root.with_name("moved")), 24).fingerprint() == before
    moved = root.with_name("moved")
    Image.new("RGB", (90, 90)).save(moved / "imagenet" / "val" / "n1" / "0.png")
    assert load_imagenet(moved, 24).fingerprint() != before


def test_a_network_trains_on_the_files_and_leaves_top_5_to_more_classes(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_READERS", "0")
    records = run(STUDY.updated(iterations=2, rewinds=(1,), compared_levels=()))
    assert set(records["dataset"]) == {"imagenet"}
    assert set(records["method"]) == {"dense", "imp"}
    assert records.loc[records["method"] == "imp", "density"].unique() == pytest.approx([0.5], abs=1e-4)
    assert {"test_accuracy", "l2_pruning"} < set(records["metric"])
    assert "test_top5_accuracy" not in set(records["metric"])


def test_crops_of_padded_images_are_for_images_in_memory(root: Path):
    part = load_imagenet(root, 24).train
    with pytest.raises(SettingError, match="smallest_crop: None is for images in memory"):
        epoch(SETTING.updated(smallest_crop=None), part)


def test_images_are_checked_once_and_again_when_one_changes(root: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    pixels = image_files.pixels
    monkeypatch.setattr(image_files, "pixels", lambda file: read.append(file) or pixels(file))
    load_imagenet(root, 24)
    load_imagenet(root, 24)
    assert len(read) == 75
    file = root / "imagenet" / "train" / "n1" / "3.png"
    file.write_bytes(file.read_bytes()[:200])
    (root / "imagenet" / "train" / "n2" / "4.png").write_text("no image")
    unreadable = [rf"\n  train/{name}: not a readable image .*" for name in ("n1/3.png", "n2/4.png")]
    with pytest.raises(DataError, match="".join(unreadable)):
        load_imagenet(root, 24)


def test_without_imagenet_it_is_said_where_to_put_it():
    with pytest.raises(DataError, match="ImageNet cannot be downloaded freely: put its images into"):
        data.load("imagenet", color=True, size=24)


class Deadly(image_files._Reader):
    """Its process is killed when it reads, as the system does where memory is short."""

    def __getitem__(self, request: image_files.Request) -> tuple[torch.Tensor, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(request)


def test_a_killed_reading_process_is_explained_and_leaves_a_store_that_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LTH_READERS", "2")
    with monkeypatch.context() as patch:
        patch.setattr(image_files, "_Reader", Deadly)
        with pytest.raises(
            DataError, match=r"reads images has died .*LTH_READERS to fewer than 2 .*are kept"
        ) as raised:
            run(DENSE)
    assert str(raised.value).count("has died") == 1
    monkeypatch.setenv("LTH_READERS", "0")
    assert len(run(DENSE)) > 0


def test_what_a_group_of_processes_is_told_does_not_reach_those_that_read(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_READERS", "1")
    batches = training_batches(SETTING, load_imagenet(root, 24).train, replicate=1, order=2, epoch=3)
    next(batches)
    (reader,) = multiprocessing.active_children()
    assert os.getpgid(reader.pid) != os.getpgid(0)
    assert len(list(batches)) == 13


def test_a_reading_process_that_is_killed_during_an_update_is_explained_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")

    monkeypatch.setenv("LTH_READERS", "2")
    monkeypatch.setattr("lth_study.training.updates.FlatNetwork.update", interrupted)
    with pytest.raises(DataError, match=r"has died \(DataLoader worker \(pid 4711\).*LTH_READERS to fewer than 2"):
        run(DENSE)


def test_a_reading_process_that_gives_nothing_ends_the_training_with_a_message(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    class Stuck(image_files._Reader):
        def __getitem__(self, request: image_files.Request) -> tuple[torch.Tensor, torch.Tensor]:
            time.sleep(0.5)  # so a batch of four takes longer than the patience
            return super().__getitem__(request)

    monkeypatch.setenv("LTH_READERS", "1")
    monkeypatch.setattr(image_files, "_Reader", Stuck)
    monkeypatch.setattr(image_files, "PATIENCE", 1)
    with pytest.raises(DataError, match=r"no images have come for 1 seconds .*finished trainings are kept"):
        run(DENSE)


def test_reading_processes_import_nothing_of_their_own(root: Path):
    watched = """
import sys
from pathlib import Path
from lth_study.data import image_files
from lth_study.data.augmentation import ResizedCrops
import torch

class Watched(image_files._Reader):
    def __getitem__(self, request):
        before = set(sys.modules)
        read = super().__getitem__(request)
        assert set(sys.modules) == before, set(sys.modules) - before
        return read

part = image_files.load_imagenet(Path(sys.argv[1]), 24).train
image_files._Reader = Watched
print(sum(len(labels) for _, labels in part.batches([torch.arange(4)], ResizedCrops(torch.rand(len(part), 5), 0.3))))
"""
    load_imagenet(root, 24)  # looked through, so that the process below reads nothing before its readers do
    environment = {**os.environ, "LTH_READERS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", watched, str(root)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "4\n", done.stderr


@pytest.mark.parametrize("readers", ["0", "1"])
def test_an_image_that_can_no_longer_be_read_is_named(readers: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LTH_READERS", readers)
    part = load_imagenet(root, 24).train
    lost = part.files[3]
    lost.unlink()
    with pytest.raises(DataError) as refused:
        epoch(SETTING, part)
    assert str(refused.value).startswith(f"{lost}: not a readable image")
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch):
    def read_only(path: Path, content: bytes) -> None:
        raise StoreError(f"cannot write {path}")

    monkeypatch.setattr(image_files, "write_atomic", read_only)
    assert len(load_imagenet(root, 24).test) > 0
