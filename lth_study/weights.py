"""Weights that go with exported records, so that chains can be continued where the run store is not.

They are a run store too, with little in it: for each chain W_k, its two deepest levels, and the dense network.
"""

from __future__ import annotations

from pathlib import Path

from lth_study import records
from lth_study.files import StoreError
from lth_study.store import StudyStore, Training, dense

LEVELS = 2
"""How many levels of a chain are carried. The last one goes on; one before it may lack a control."""


def carry(source: Path, destination: Path) -> list[str]:
    """Copy from one run store into another what chains go on from; a line on each study.

    That is the dense network of every replicate that has one, with the states W_k that it left behind and the
    optimiser's moments in them, and the `LEVELS` deepest levels of each chain. What is there already stays. One-shot
    levels do not build on each other: of them, none is copied. Raises `StoreError` where the two stores' images differ,
    or where a file of the source is damaged.
    """
    configs = records.studies(source)
    if not configs:
        raise StoreError(f"{source} holds no runs; expected <study>/config.json and <study>/replicate_*/ in it")
    return [_carry_study(StudyStore(source, config), StudyStore(destination, config)) for config in configs]


def _carry_study(source: StudyStore, destination: StudyStore) -> str:
    name, complete = source.config.name, source.results()
    chains: dict[tuple[int, int], list[Training]] = {}
    for t in sorted(complete):
        if t.method == "imp" and not t.order and not t.again and source.config.densities is None:
            chains.setdefault((t.replicate, t.rewind), []).append(t)
    unpruned = [training for training in complete if training == dense(training.replicate)]
    if not unpruned:
        return f"{name}: no dense network is trained"
    fingerprint = str(complete[unpruned[0]]["provenance"]["data_fingerprint"])  # a store has one
    destination.prepare()
    if destination.images(fingerprint) != fingerprint:
        raise StoreError(
            f"{name}: trained on other images in {source.store} (fingerprint {fingerprint}) than in "
            f"{destination.store} ({destination.images(fingerprint)}); keep them in folders of their own"
        )
    for training in [*unpruned, *(level for levels in chains.values() for level in levels[-LEVELS:])]:
        _carry_training(source, destination, training)
    return f"{name}: {len(unpruned)} dense networks and {len(chains)} chains"


def _carry_training(source: StudyStore, destination: StudyStore, training: Training) -> None:
    here, there = source.saves(training), destination.saves(training)
    with there.locked():
        for iteration in set(here.kept_states()) - set(there.kept_states()):
            there.save_state(iteration, here.load_state(iteration))
        if not there.complete:
            there.finish(here.result(), here.load_end(), here.load_mask())
