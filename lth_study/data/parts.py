"""The types of a data set for readers and training: parts in memory as uint8 tensors, or any other `Part`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lth_study.data.augmentation import Augmentation
from lth_study.seeds import stream


class DataError(RuntimeError):
    """Data is missing, truncated or altered. The message names the file and how to mend it."""


Batch = tuple[Tensor, Tensor]
"""Images (uint8 [batch, height, width] or [batch, channels, height, width]) and labels (int64 [batch])."""


class Part(Protocol):
    """The interface of a data set's part for training and evaluation, in memory or in files."""

    @property
    def labels(self) -> Tensor: ...

    @property
    def size(self) -> int:
        """The side of an image in pixels."""

    @property
    def device(self) -> torch.device:
        """The device of the batches."""

    @property
    def chosen_on(self) -> torch.device:
        """The device on which the examples of a batch are chosen and augmentations drawn."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Part:
        """The same part, with its batches on a device."""

    def of(self, examples: Tensor) -> Part:
        """The part that holds these examples."""

    def batches(self, chosen: Iterable[Tensor], augment: Augmentation | None) -> Iterator[Batch]:
        """A batch for each tensor of examples (int64 [batch], on `chosen_on`), augmented."""

    def identity(self) -> Iterator[bytes | memoryview]:
        """Data that identify these images and labels, for a digest."""


@dataclass(frozen=True)
class Split:
    """A part held in memory. Images are uint8, [examples, height, width] or [examples, channels, height, width]; labels
    are int64 [examples]."""

    images: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        return self.images.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def chosen_on(self) -> torch.device:
        return self.labels.device

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def of(self, examples: Tensor) -> Split:
        return Split(self.images[examples], self.labels[examples])

    def batches(self, chosen: Iterable[Tensor], augment: Augmentation | None) -> Iterator[Batch]:
        for examples in chosen:
            images = self.images.index_select(0, examples)
            if augment is not None:
                images = augment(images, examples)
            yield images, self.labels.index_select(0, examples)

    def identity(self) -> Iterator[bytes | memoryview]:
        for tensor in (self.images, self.labels):
            yield str(tuple(tensor.shape)).encode()
            yield tensor.cpu().contiguous().numpy().data


def hold_out(train: Part, kept: int) -> tuple[Part, Part]:
    """The `kept` examples to train on and the others, held out for validation. The split is random over all classes
    and always the same."""
    shuffled = torch.randperm(len(train), generator=stream(0, "validation split"))
    return train.of(shuffled[:kept]), train.of(shuffled[kept:])


@dataclass(frozen=True)
class Dataset:
    """The three parts of a data set. Results on the test part are reported only; no choice depends on them."""

    name: str
    train: Part
    validation: Part
    test: Part

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify all images and labels; records of other data have other digits."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for content in part.identity():
                digest.update(content)
        return digest.hexdigest()[:16]

    def to(self, device: torch.device) -> Dataset:
        """The same data set on a device. Networks are trained on the device of their data."""
        return Dataset(self.name, self.train.to(device), self.validation.to(device), self.test.to(device))
