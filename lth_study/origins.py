"""`Origin`: what a method can make a ticket of. `worker` makes it for a training, and functions in `methods` use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lth_core import Mask, Ticket, prune_iteratively, random_pruning, random_reinitialisation, subnetwork
from lth_study.data.parts import Part
from lth_study.networks import build, initial_weights
from lth_study.seeds import seeded, stream
from lth_study.settings import Setting
from lth_study.training.train import on, steady_arithmetic
from lth_study.training.updates import State

Score = Callable[[nn.Module, Mask], Mapping[str, Tensor]]
"""Scores of a network's weights under a mask. The lowest are pruned."""


@dataclass(frozen=True)
class Origin:
    """A level of a chain: its IMP mask, W_k (`rewound`, not masked), and the training images."""

    setting: Setting
    images: Part
    replicate: int
    rewind: int
    level: int
    mask: Mask
    rewound: State

    def ticket(self, mask: Mask) -> Ticket:
        """W_k under a mask."""
        return subnetwork(self.rewound, mask, self.rewind, self.level)

    def shuffled(self, mask: Mask, purpose: str) -> Ticket:
        """W_k under a mask shuffled within layers, with the random stream of this purpose."""
        chance = stream(self.replicate, purpose, self.rewind, self.level)
        return random_pruning(mask, self.rewound, chance, self.rewind, self.level)

    def fresh(self, mask: Mask, start: int) -> Ticket:
        """Another initialisation under a mask, trained from iteration `start`. All of a replicate share it."""
        weights = initial_weights(self.setting, stream(self.replicate, "reinit"))
        return random_reinitialisation(mask, weights, start, self.level)

    def pruned(self, score: Score, iterations: int = 1, inverted: bool = False) -> Mask:
        """The network with W_k, pruned by scores to the density of the level's IMP mask, all layers together.

        The lowest scores are pruned, or the highest if `inverted`. The network is in training mode and computes in
        float32, whatever the setting's precision.
        """
        sign = -1 if inverted else 1
        device = self.images.device
        dropout = seeded(stream(self.replicate, "dropout for scores").initial_seed(), device)
        with on(device), steady_arithmetic(), dropout:
            model = build(self.setting).to(device)
            model.load_state_dict({name: self.rewound[name] for name in model.state_dict()})
            model.train()

            def signed(mask: Mask) -> dict[str, Tensor]:
                return {name: sign * scores for name, scores in score(model, mask).items()}

            return prune_iteratively(signed, Mask.ones(model), self.mask.density, iterations)

    def examples(self, count: int, *, of_each_class: bool = False) -> Tensor:
        """Random training examples for scores, the same at every level of a replicate: `count`, or of each class so
        many. A class that has fewer gives all of its own."""
        order = torch.randperm(len(self.images), generator=stream(self.replicate, "examples for scores"))
        if not of_each_class:
            return order[:count]
        labels = self.images.labels.to("cpu")[order]
        return torch.cat([order[labels == label][:count] for label in range(self.setting.classes)])

    def loss(self, examples: Tensor, temperature: float = 1.0) -> Callable[[nn.Module], Tensor]:
        """The cross-entropy on one batch of examples, not augmented, of logits divided by a temperature.

        Neither label smoothing nor Inception-v3's auxiliary head counts.
        """
        images, labels = next(iter(self.images.batches([examples.to(self.images.chosen_on)], None)))

        def of(model: nn.Module) -> Tensor:
            outputs = model(images)
            return F.cross_entropy((outputs if isinstance(outputs, Tensor) else outputs[0]) / temperature, labels)

        return of

    def scaled_image(self) -> Tensor:
        """A training image in floating point: networks take it as scaled already."""
        first = torch.zeros(1, dtype=torch.int64, device=self.images.chosen_on)
        images, _ = next(iter(self.images.batches([first], None)))
        return images.double()
