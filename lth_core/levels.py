"""The levels of a search, and the folder that keeps them: a file for each, which a later search goes on from.

    <folder>/rewound.safetensors                       W_k
    <folder>/level_00.safetensors, level_01.safetensors, ...   mask, trained state, result

A level's file is written at once and whole. A search that is killed has lost the level that it was training, no other.
"""

from __future__ import annotations

import os
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, Literal, NamedTuple, Protocol

from lth_core.masks import Mask
from lth_core.states import Weights, fingerprint, read_state, write_state

Retrain = Literal["weight_rewinding", "learning_rate_rewinding", "fine_tuning"]
"""What a level is trained from (arXiv 2003.02389). The first: W_k, at iteration k of the schedule. The second: the
trained weights that were pruned, at iteration k. The third: these, at the end of the schedule and its last rate."""


class Level(NamedTuple):
    """One level: the mask, the weights it was rewound to, the trained weights, and what `train` returned beside them.

    `rewound` is what the level's training started from, unmasked. With weight rewinding, it is W_k. With learning-rate
    rewinding and with fine-tuning, it is the trained weights that were pruned: W_k at level 0, then `trained` of the
    level before, or of the dense network in one-shot pruning.
    """

    mask: Mask
    rewound: Weights
    trained: Weights
    result: Any

    def __repr__(self) -> str:
        result = " ".join(shortened(self.result).split())
        return f"Level({self.mask}, rewound and trained: {len(self.trained)} tensors each, result={result})"


class Saved(Protocol):
    """Levels that outlive a search: any object with these two methods, over a dictionary or files of your own.

    One object serves one search: the same weights, masks, `rewind`, `retrain`, and densities or pruning. The search
    changes no tensor that it keeps or loads, and yields copies. A folder's path in place of the object is a
    `LevelFolder`.
    """

    def load(self, level: int) -> Level | None:
        """The level of this number as it was kept, or None where there is none. A level that is loaded is not trained.

        The names in its mask must be in the order of the mask that the search was given: it decides ties in pruning,
        and random controls are drawn in it. A file may not keep it.
        """

    def keep(self, level: int, found: Level) -> None:
        """Keep a level that was just trained. It is yielded afterwards."""


class LevelFolder:
    """The levels of one search in a folder (`Saved`). Every file says whose it is: W_0, the first mask,
    `rewind`, `retrain` and `iterations`.

    States and results are nested dictionaries, lists, tuples, tensors, numbers, strings, bytes, booleans and None;
    anything else is a `ValueError`. Tensors are loaded onto the processor.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        weights: Weights,
        mask: Mask,
        rewind: int,
        retrain: Retrain = "weight_rewinding",
        iterations: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is said before any training
        self.search = {
            "W_0": fingerprint(weights),
            "the first mask": fingerprint(mask.by_every_name()),
            "rewind": rewind,
            "retrain": retrain,
            "iterations": iterations,
        }
        self.rewound: Weights | None = None

    def load(self, level: int) -> Level | None:
        """A level, or None. Its `rewound` is W_k, whatever the search makes of it.

        Raises `ValueError` for a damaged file and for one of another search.
        """
        file, rewound = self._file(level), self.folder / "rewound.safetensors"
        if not file.exists() or (self.rewound is None and not rewound.exists()):  # then level 0 gives W_k again
            return None
        if self.rewound is None:
            self.rewound = self._read(rewound)["weights"]
        kept = self._read(file)
        return Level(Mask.of_state(kept["mask"]), self.rewound, kept["trained"], kept["result"])

    def keep(self, level: int, found: Level) -> None:
        """Write a level's file. The dense network's comes after that of W_k, without which it cannot be loaded."""
        if level == 0:
            self.rewound = found.rewound
            write_state(self.folder / "rewound.safetensors", {"search": self.search, "weights": found.rewound})
        content = {
            "search": self.search,
            "mask": found.mask.by_every_name(),
            "trained": found.trained,
            "result": found.result,
        }
        write_state(self._file(level), content)

    def check(self, level: int, kept: Mask, pruned: Mask) -> None:
        """Refuse a level whose mask is not what the search's pruning makes of the level before it."""
        if kept != pruned:
            raise ValueError(
                f"{self._file(level)} is of another search: it keeps {kept.survivors:,} weights, and the pruning asked "
                f"for keeps {pruned.survivors:,} or others; prune as before (the same mask every time), or choose "
                "another folder"
            )

    def _file(self, level: int) -> Path:
        return self.folder / f"level_{level:02d}.safetensors"

    def _read(self, file: Path) -> dict[str, Any]:
        kept = read_state(file)[0]
        there = {"retrain": "weight_rewinding", **kept.get("search", {})}  # older files lack it, and `iterations`
        differing = [name for name in self.search if there.get(name) != self.search[name]]
        if differing:
            said = "; ".join(f"{n} is {there.get(n)!s:.24} there and {self.search[n]!s:.24} here" for n in differing)
            raise ValueError(
                f"{file} is of another search: {said}; choose another folder, or search as before (is W_0 drawn "
                "from a seed?)"
            )
        return kept
