"""What sparse weights save in time: `python benchmarks/sparse.py` measures it and writes results/sparse.csv.

Single linear layers and LeNet-300-100 compute their outputs with weights in compressed rows (CSR), at several
densities. A ratio is the time of the dense network, as it is or compiled, by the time of the sparse one: above 1,
sparse weights are faster. The zeros are drawn at random and cost a dense network as much as any other number.
All take turns, round after round, so that a machine whose speed drifts slows them alike. Give it a quiet machine.

Sparse products get what they are fastest with: 32-bit indices, a batch in columns, and one image as a vector.
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import pandas as pd
import torch
from common import Row, interleaved, keep, row, timed
from torch import Tensor, nn

from lth_core import Mask

NETWORKS = {
    "linear 784 to 300": (784, 300),
    "linear 1024 to 1024": (1024, 1024),
    "linear 4096 to 4096": (4096, 4096),
    "LeNet-300-100": (784, 300, 100, 10),
}
"""Widths, from the inputs to the outputs."""
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
BATCHES = (1, 256)
THREADS = (1, 2)
SECONDS = 0.02
"""About how long the dense network computes in a round, again and again."""


def main() -> None:
    """Measure everything, print it, write it."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=15, help="rounds, each with every variant once")
    rounds = arguments.parse_args().rounds
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    with torch.inference_mode():
        table = pd.DataFrame(rows(rounds))
    keep(table, "sparse.csv")


def rows(rounds: int) -> Iterator[Row]:
    """The ratios of every number of threads, network, batch and density, to the dense network as it is and compiled."""
    for threads, (network, widths), batch in itertools.product(THREADS, NETWORKS.items(), BATCHES):
        torch.set_num_threads(threads)
        torch.compiler.reset()  # compiled code is made for a number of threads
        seconds = measured(widths, torch.randn(batch, widths[0]), rounds)
        for density, against in itertools.product(DENSITIES, ("eager", "compiled")):
            setting: Row = {"network": network, "batch": batch, "threads": threads, "density": density}
            yield setting | row(f"dense, {against} / sparse", "ratio", seconds[against] / seconds[str(density)])


def measured(widths: tuple[int, ...], images: Tensor, rounds: int) -> pd.DataFrame:
    """The seconds of a dense network and of its sparse ones, round after round."""
    layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    works = {"eager": partial(model, images), "compiled": partial(torch.compile(model), images)}
    works |= {str(density): sparse(model, density, images) for density in DENSITIES}
    works["eager"]()
    calls = math.ceil(SECONDS / timed(works["eager"])())
    return interleaved({name: timed(partial(repeated, work, calls)) for name, work in works.items()}, rounds)


def repeated(work: Callable[[], Tensor], calls: int) -> None:
    for _ in range(calls):
        work()


def sparse(model: nn.Sequential, density: float, images: Tensor) -> Callable[[], Tensor]:
    """The network with this share of every layer's weights, at random, in compressed rows; its outputs are checked."""
    pruned = nn.Sequential(
        *(nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else m for m in model)
    )
    Mask({name: torch.rand(ones.shape) < density for name, ones in Mask.ones(pruned).items()}).apply_(pruned)
    layers = [(compressed(m.weight), m.bias) for m in pruned if isinstance(m, nn.Linear)]
    first = images[0] if len(images) == 1 else images.t().contiguous()

    def work() -> Tensor:
        outputs = first
        for place, (weight, bias) in enumerate(layers):
            inputs = outputs.relu_() if place else first
            outputs = (
                torch.addmv(bias, weight, inputs) if first.dim() == 1 else torch.addmm(bias[:, None], weight, inputs)
            )
        return outputs

    torch.testing.assert_close(work().t().reshape(len(images), -1), pruned(images), rtol=1e-4, atol=1e-4)
    return work


def compressed(weight: Tensor) -> Tensor:
    rows = weight.to_sparse_csr()
    return torch.sparse_csr_tensor(
        rows.crow_indices().int(), rows.col_indices().int(), rows.values(), rows.shape, check_invariants=False
    )


if __name__ == "__main__":
    main()
