"""Folders of images, as Imagenette's: the squares that are read from them, their cache, and every fault at once."""

import errno
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from doubles import write_imagenette
from PIL import Image

from lth_study.data.image_folders import IMAGENETTE as CLASSES
from lth_study.data.image_folders import load_imagenette
from lth_study.data.parts import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Imagenette's folder, with two images of each class in each part."""
    return write_imagenette(tmp_path)


def fingerprint(root: Path, size: int = 10) -> str:
    return load_imagenette(root.parent, size).fingerprint()


def test_images_are_scaled_to_the_size_and_cut_to_the_square_in_the_middle(root: Path):
    images = load_imagenette(root.parent, 10)
    assert (len(images.train), len(images.validation), len(images.test)) == (19, 1, 20)
    assert images.test.images.shape == (20, 3, 10, 10)
    for square, label in zip(images.test.images, images.test.labels.tolist(), strict=True):
        assert set(square[0].flatten().tolist()) == {20 * label}
        assert set(square[1].flatten().tolist()) == {100}
    everything = torch.cat([images.train.labels, images.validation.labels]).sort().values.tolist()
    assert everything == [label for label in range(10) for _ in range(2)]


def test_grey_and_transparent_images_are_read_as_colour(root: Path):
    colours = [(0, 100, 0), (0, 100, 10)]
    for number, (kind, colour) in enumerate(zip(("L", "RGBA"), colours, strict=True)):
        Image.new("RGB", (40, 20), colour).convert(kind).save(root / "val" / CLASSES[0] / f"0{number}.png")
    images = load_imagenette(root.parent, 10).test.images[:2]
    assert [image.unique().tolist() for image in images] == [[59], [0, 10, 100]]  # 0.587 of the green, by BT.601
    assert images[1].flatten(1).unique(dim=1).flatten().tolist() == [0, 100, 10]


def test_squares_are_kept_for_each_size_and_made_again_when_an_image_or_they_have_changed(root: Path):
    first = fingerprint(root)
    (cache,) = root.glob(".decoded-*")
    whole, made = cache.read_bytes(), cache.stat().st_mtime_ns
    (root / "train" / CLASSES[0] / ".DS_Store").write_bytes(b"no image")  # hidden files are none
    assert fingerprint(root) == first
    assert cache.stat().st_mtime_ns == made
    cache.write_bytes(whole[:-1])
    assert fingerprint(root) == first
    assert cache.read_bytes() == whole
    assert load_imagenette(root.parent, 12).test.size == 12
    assert len(list(root.glob(".decoded-*"))) == 2
    file = root / "val" / CLASSES[0] / "00.png"
    before = file.stat()
    Image.new("RGB", (40, 20), "black").save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert fingerprint(root) != first
    assert len(list(root.glob(".decoded-10-*"))) == 1


def test_a_folder_that_cannot_be_written_is_decoded_every_time(root: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        first = fingerprint(root)
    assert [file.name for file in root.glob(".*")] == []
    assert fingerprint(root) == first


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def huge_png() -> bytes:
    """The head of an image whose pixels would fill the memory."""
    size = (50_000).to_bytes(4, "big")
    header = size + size + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda whole: b"",
    lambda whole: b"<html>not found</html>",
    lambda whole: whole[: len(whole) // 2],
    lambda whole: whole[:8] + png_chunk(b"IHDR", bytes(3)) + whole[33:],
    lambda whole: whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
    lambda whole: huge_png(),
]


def test_every_damaged_image_is_listed_and_nothing_is_cached(root: Path):
    for name, spoil in zip(CLASSES, DAMAGES, strict=False):
        file = root / "train" / name / "01.png"
        file.write_bytes(spoil(file.read_bytes()))
    last = root / "val" / CLASSES[-1] / "01.png"
    last.unlink()
    last.mkdir()
    damaged = [f"train/{name}" for name in CLASSES[: len(DAMAGES)]] + [f"val/{CLASSES[-1]}"]
    lines = "".join(rf"\n  {place}/01.png: not a readable image \(.+\)" for place in damaged)
    with pytest.raises(DataError, match=f"{root} is not as expected.*{lines}$"):
        load_imagenette(root.parent, 10)
    assert list(root.glob(".decoded*")) == []


def test_empty_strange_and_missing_classes_are_listed(root: Path):
    shutil.rmtree(root / "val" / CLASSES[3])
    (root / "train" / "n99999999").mkdir()
    problems = rf"train/n99999999: not one of the 10 classes\n  val/{CLASSES[3]}: no images of this class$"
    with pytest.raises(DataError, match=problems):
        load_imagenette(root.parent, 10)
    (root / "val").rename(root / "vla")
    every = "".join(rf"\n  val/{name}: no images of this class" for name in CLASSES[:9])
    with pytest.raises(DataError, match=rf"{every}\n  and 1 more$"):
        load_imagenette(root.parent, 10)
