"""CIFAR-10 from its batches, against files made here; and images in colour, and reduced."""

import hashlib
import importlib
import itertools
import pickle
import pickletools
import shutil
import struct
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from lth_study import DataError, data
from lth_study.data import _download, cifar10, mnist
from lth_study.data.parts import Dataset, Split, hold_out
from lth_study.networks import build
from lth_study.presets import preset

Content = Counter[tuple[bytes, int]]


def content(*splits: Split) -> Content:
    """Every image with its label, in whatever order."""
    return Counter(
        (image.numpy().tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )


# The batches

FILES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
FINGERPRINT = "0d72915b1c52998f"
"""Of CIFAR-10 as torchvision's own class reads it."""


def made(file: str) -> tuple[np.ndarray, list[int]]:
    """The few images of a batch, [count, 3072], and their labels."""
    count = 20 if file == "test_batch" else 8
    images = np.random.default_rng(list(file.encode())).integers(0, 256, (count, 3_072), np.uint8)
    return images, [(position + count) % 10 for position in range(count)]


def text(content: str | bytes) -> bytes:
    """A string in a pickle of Python 2."""
    content = content if isinstance(content, bytes) else content.encode()
    return b"T" + struct.pack("<i", len(content)) + content


def batch_of(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and the numpy of 2009 pickled it."""
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    shape = b"".join(b"M" + struct.pack("<H", side) for side in images.shape) + b"\x86"
    kind = b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|") + b"NNN" + 2 * b"J\xff\xff\xff\xff"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
    state = b"(K\x01" + shape + kind + b"K\x00tb\x89" + text(images.tobytes()) + b"tb"
    return b"\x80\x02}(" + text("labels") + b"](" + numbers + b"e" + text("data") + array + state + b"u."


Put = Callable[[str, bytes], None]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Writes a file among the batches, with a digest as if it were CIFAR-10's."""
    monkeypatch.setattr(CIFAR10, "train_list", [[file, ""] for file in FILES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[file, ""] for file in FILES[5:]])

    def write(file: str, content: bytes) -> None:
        (data.data_root() / "cifar-10-batches-py" / file).write_bytes(content)
        for entry in (*CIFAR10.train_list, *CIFAR10.test_list):
            if entry[0] == file:
                entry[1] = hashlib.md5(content).hexdigest()

    return write


@pytest.fixture
def batches(put: Put) -> Path:
    """CIFAR-10 in torchvision's layout, few images of it."""
    folder = data.data_root() / "cifar-10-batches-py"
    folder.mkdir()
    for file in FILES:
        put(file, batch_of(*made(file)))
    return folder


def in_batches(*files: str) -> Content:
    """What the batches hold: a row of a batch is an image's red, green and blue planes, each row by row."""
    rows = (pair for file in files for pair in zip(*made(file), strict=True))
    return Counter((row.tobytes(), label) for row, label in rows)


def check_made(dataset: Dataset) -> None:
    assert dataset.name == "cifar10"
    assert content(dataset.train, dataset.validation) == in_batches(*FILES[:5])
    assert content(dataset.test) == in_batches("test_batch")
    assert dataset.test.labels.tolist() == made("test_batch")[1]


def test_the_batches_are_read_with_their_channels_first_and_their_labels(batches):
    dataset = data.load("cifar10", color=True)
    check_made(dataset)
    for part in (dataset.train, dataset.test):
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert part.images.shape == (len(part), 3, 32, 32)


ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda whole: whole[:-1],
    "one bit": lambda whole: whole[:-2_000] + bytes([whole[-2_000] ^ 1]) + whole[-1_999:],
}


@pytest.mark.parametrize(("file", "how"), [(FILES[0], None), (FILES[-1], "cut"), (FILES[0], "one bit")])
def test_a_missing_or_altered_batch_is_refused_by_name_and_not_replaced(batches: Path, file: str, how: str | None):
    whole = (batches / file).read_bytes()
    (batches / file).unlink()
    if how is not None:
        (batches / file).write_bytes(ALTERED[how](whole))
    problem = "missing" if how is None else "truncated or altered"
    assert data.resolve("cifar10") == "cifar10"
    with pytest.raises(DataError, match=f"{batches / file} is {problem}.*; delete {batches} to"):
        data.load("cifar10", color=True)


ATTACKS: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda path: b"cos\nsystem\n" + text(f"mkdir '{path}'") + b"\x85R",
    "posix.mkdir": lambda path: text("posix") + text("mkdir") + b"\x93" + text(path) + b"\x85R",
    "os.mkdir": lambda path: b"(" + text(path) + b"ios\nmkdir\n",
    "__builtin__.eval": lambda path: b"c__builtin__\neval\n" + text(f"__import__('os').mkdir({path!r})") + b"\x85R",
    "numpy.memmap": lambda path: b"cnumpy\nmemmap\n(" + text(path) + text("u1") + text("w+") + b"K\x00K\x01tR",
}
"""Pieces of a pickle that make a file or folder, by the function that they name."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_batch_that_runs_code_is_refused_by_its_file_and_the_name_and_does_nothing(batches, put, tmp_path, attack):
    trace = tmp_path / "trace"
    whole = batch_of(*made("data_batch_3"))
    bad = whole.removesuffix(b"u.") + text("batch_label") + ATTACKS[attack](str(trace)) + b"u."
    put("data_batch_3", bad)
    with pytest.raises(DataError, match=f"{batches / 'data_batch_3'} names {attack};"):
        data.load("cifar10", color=True)
    assert not trace.exists()
    pickle.loads(bad, encoding="latin1")
    assert trace.exists()


def test_no_name_is_admitted_but_the_three_that_the_batches_hold():
    importlib.import_module("numpy.core.multiarray")
    admitted = {}
    for module, loaded in sys.modules.copy().items():
        for name in vars(loaded):
            with suppress(DataError):
                unpickler = cifar10._Unpickler(Path("batch"), f"c{module}\n{name}\n.".encode())
                admitted[module, name] = unpickler.load()
    assert admitted == {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }


def disassembled(file: Path) -> tuple[set[str], np.ndarray, list[int]]:
    """Names, images and labels in a batch, without unpickling: labels come before the array, whose bytes are the one
    long string."""
    operations = [(operation.name, value) for operation, value, _ in pickletools.genops(file.read_bytes())]
    names = {value for operation, value in operations if operation == "GLOBAL"}
    (planes,) = (value for operation, value in operations if operation == "BINSTRING")
    before = itertools.takewhile(lambda item: item[0] != "GLOBAL", operations)
    labels = [value for operation, value in before if operation == "BININT1"]
    return names, np.frombuffer(planes.encode("latin1"), np.uint8).reshape(10_000, 3, 32, 32), labels


def test_the_real_batches_are_read_as_they_disassemble_and_are_what_networks_are_scaled_for(real_cifar10):
    assert data.resolve("cifar10") == "cifar10"
    dataset = data.load("cifar10", color=True)
    folder = real_cifar10 / "cifar-10-batches-py"
    names, images, labels = zip(*(disassembled(folder / file) for file in FILES), strict=True)
    assert set().union(*names) == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}
    assert np.array_equal(dataset.test.images, images[5])
    assert np.array_equal(dataset.test.labels, labels[5])
    train = Split(torch.from_numpy(np.concatenate(images[:5])), torch.from_numpy(np.concatenate(labels[:5])))
    for part, expected in zip((dataset.train, dataset.validation), hold_out(train, 45_000), strict=True):
        assert torch.equal(part.images, expected.images)
        assert torch.equal(part.labels, expected.labels)
    assert dataset.fingerprint() == FINGERPRINT
    assert torch.bincount(train.labels).tolist() == 10 * [5_000]
    mean = (train.images.sum((0, 2, 3), dtype=torch.int64) / (50_000 * 32 * 32 * 255)).tolist()
    assert mean == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-7, rel=0)
    pixels = dataset.train.images[:5_000].double().transpose(0, 1).reshape(3, -1) / 255
    model = build(preset("resnet20").setting)
    torch.testing.assert_close(pixels.mean(1), model.mean.flatten().double(), atol=0.01, rtol=0)
    torch.testing.assert_close(pixels.std(1), model.deviation.flatten().double(), atol=0.01, rtol=0)


# The validation split


def test_5000_training_images_of_all_classes_are_held_out_none_is_lost_and_they_are_always_the_same():
    numbered = Split(torch.arange(50_000), torch.arange(50_000) % 10)  # images of one number each
    train, validation = hold_out(numbered, cifar10.KEPT)
    assert (len(train), len(validation)) == (45_000, 5_000)
    assert torch.equal(torch.cat([train.images, validation.images]).sort().values, torch.arange(50_000))
    assert all(400 < count < 600 for count in validation.labels.bincount().tolist())
    for part in (train, validation):
        assert torch.equal(part.labels, part.images % 10)
    assert validation.images[:3].tolist() == [37950, 12144, 33606]


# Which data set is used


def test_the_batches_are_used_without_a_warning_or_a_download(batches, monkeypatch):
    monkeypatch.delattr(data, "_download")
    assert data.resolve("cifar10") == "cifar10"


@pytest.mark.parametrize("use", [data.resolve, data.load])
def test_jpeg_images_have_records_alone(use: Callable[[str], object]):
    with pytest.raises(DataError, match="'cifar10_jpeg' has records and is no longer read; to train, choose 'cifar10'"):
        use("cifar10_jpeg")


@pytest.mark.filterwarnings("ignore:.*filter extracted tar:DeprecationWarning")  # torchvision's, from Python 3.12 on
def test_an_archive_is_unpacked_and_read_without_torchvisions_class(batches: Path, monkeypatch):
    archive = batches.with_name(CIFAR10.filename)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, batches.name)
    shutil.rmtree(batches)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "__init__", None)
    monkeypatch.setattr(data, "_download", _download)
    assert data.resolve("cifar10") == "cifar10"
    check_made(data.load("cifar10", color=True))


def test_a_lenet_is_refused_colour_images(batches):
    with pytest.raises(DataError, match="CIFAR-10 has colour images"):
        data.load("cifar10")


# Colour and size


@pytest.fixture
def digits(embedded_mnist: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The embedded images, not read again, and so many for training that they are reduced in several pieces."""
    parts = (embedded_mnist.train, embedded_mnist.validation, embedded_mnist.test, embedded_mnist.validation)
    every = Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))
    dataset = replace(embedded_mnist, train=every)
    monkeypatch.setattr(mnist, "load_embedded", lambda: dataset)
    return dataset


def block_averages(images: np.ndarray, side: int) -> np.ndarray:
    """Averages of square blocks, rounded, halves to even; in whole numbers but for the division."""
    *rest, height, width = images.shape
    blocks = images.astype(np.int64).reshape(*rest, height // side, side, width // side, side)
    return np.rint(blocks.sum((-3, -1)) / side**2).astype(np.uint8)


@pytest.mark.parametrize("size", [None, 32, 16, 8])
def test_digits_in_colour_are_framed_repeated_and_reduced(digits, size):
    colored = data.load("mnist_embedded", color=True, size=size)
    assert colored.name == "mnist_embedded"
    for name in ("train", "validation", "test"):
        grey, part = getattr(digits, name), getattr(colored, name)
        framed = np.zeros((len(grey), 32, 32), np.uint8)
        framed[:, 2:30, 2:30] = grey.images.numpy()
        reduced = block_averages(framed, 32 // (size or 32))
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (len(grey), 3, *reduced.shape[1:])
        assert part.images.is_contiguous()
        for channel in range(3):
            assert np.array_equal(part.images[:, channel].numpy(), reduced)
        assert torch.equal(part.labels, grey.labels)


def test_colour_images_are_reduced_channel_by_channel(batches):
    whole, reduced = (data.load("cifar10", color=True, size=size) for size in (None, 16))
    assert reduced.test.images.shape == (20, 3, 16, 16)
    assert np.array_equal(reduced.test.images.numpy(), block_averages(whole.test.images.numpy(), 2))
    assert torch.equal(reduced.test.labels, whole.test.labels)
