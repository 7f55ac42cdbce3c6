"""Stand-ins for what a training is given: where it saves, when it is asked to stop, and folders of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from lth_study.data.image_folders import IMAGENETTE


def write_images(folder: Path, parts: Mapping[str, int], classes: Sequence[str], shade: int) -> Path:
    """So many images of each class in each part: 40 wide and 20 high, the middle in a colour of its class."""
    for part, count in parts.items():
        for label, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40, 20), "white")
                image.paste((shade * label, 100, number), (8, 0, 32, 20))
                image.save(folder / part / name / f"{number:02}.png")
    return folder


def write_imagenette(root: Path) -> Path:
    return write_images(root / "imagenette", {"train": 2, "val": 2}, IMAGENETTE, 20)


def write_imagenet(root: Path) -> None:
    """20 training images and 5 test images of each of three classes, of many sizes and colours."""
    chance = torch.Generator().manual_seed(2)
    for part, count in (("train", 20), ("val", 5)):
        for name in ("n1", "n2", "n3"):
            folder = root / "imagenet" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = torch.randint(24, 60, (2,), generator=chance).tolist()
                pixels = torch.randint(0, 256, (3, height, width), generator=chance, dtype=torch.uint8)
                to_pil_image(pixels).save(folder / f"{number}.png")


class Kept:
    """Keeps states in memory as they are handed over."""

    def __init__(self) -> None:
        self.states: dict[int, Mapping[str, Tensor]] = {}

    def load_checkpoint(self) -> None:
        return None

    def save_checkpoint(self, iteration: int, seconds: float, state: Mapping[str, Tensor]) -> None:
        pass

    def save_state(self, iteration: int, state: Mapping[str, Tensor]) -> None:
        self.states[iteration] = state


class StopAt:
    """Says yes the nth time it is asked, counting from 0."""

    def __init__(self, call: int | None = None) -> None:
        self.call = call
        self.calls = 0

    def __call__(self) -> bool:
        self.calls += 1
        return self.calls - 1 == self.call
