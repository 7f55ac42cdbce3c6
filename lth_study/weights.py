"""Copies weights to continue IMP chains on another machine, for `lth export --weights` and `lth import --weights`.

The copy is a small run store (`store`): the dense networks, W_k, and the two deepest levels of each chain.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from lth_study import records
from lth_study.files import Damaged, StoreError
from lth_study.store import ChainId, StudyStore, Training, dense

LEVELS = 2
"""Levels copied from a chain. The chain continues from the last one; the one before it may lack a control."""


def carry(source: Path, destination: Path) -> list[str]:
    """Copy the weights that chains continue from, from one run store into another. Returns a line on each study.

    Copies each replicate's dense network, its states W_k with the optimiser's moments, and the `LEVELS`
    deepest levels of each chain. Files already there stay. One-shot levels are not copied: they do not build on each
    other. Raises `StoreError` if the stores differ in their images or in a dense network that both have. So it does if
    a file of the source is damaged.
    """
    settings = records.studies(source)
    if not settings:
        raise StoreError(f"{source} holds no runs; expected <study>/config.json and <study>/replicate_*/ there")
    return [_carry_study(StudyStore(source, setting), StudyStore(destination, setting)) for setting in settings]


def _carry_study(source: StudyStore, destination: StudyStore) -> str:
    name, complete = source.setting.name, source.results()
    chains: dict[ChainId, list[Training]] = {}
    for t in sorted(complete):
        if t.searched and not t.order and not t.again and source.setting.densities is None:
            chains.setdefault(t.chain, []).append(t)
    unpruned = [training for training in complete if training == dense(training.replicate)]
    if not unpruned:
        return f"{name}: no dense network is trained"
    fingerprint = str(complete[unpruned[0]]["provenance"]["data_fingerprint"])  # the same for all of a store
    destination.prepare()
    if destination.images(fingerprint) != fingerprint:
        raise StoreError(
            f"{name}: trained on other images in {source.store} (fingerprint {fingerprint}) than in "
            f"{destination.store} ({destination.images(fingerprint)}); keep the two in separate folders"
        )
    for training in unpruned:
        if destination.saves(training).complete and not _same_end(source, destination, training):
            raise StoreError(
                f"{name}: replicate {training.replicate} was trained apart in {source.store} and in "
                f"{destination.store}, and its dense networks differ; keep the two in separate folders"
            )
    for training in [*unpruned, *(level for levels in chains.values() for level in levels[-LEVELS:])]:
        _carry_training(source, destination, training)
    return f"{name}: {len(unpruned)} dense networks and {len(chains)} chains"


def _same_end(source: StudyStore, destination: StudyStore, training: Training) -> bool:
    """Whether a training that both stores have gave the same bits. An end that is damaged in `destination` counts as
    the same: it is trained again."""
    from lth_core.states import fingerprint  # importing this imports torch

    here = fingerprint(source.saves(training).load_end())
    with suppress(Damaged):
        return fingerprint(destination.saves(training).load_end()) == here
    return True


def _carry_training(source: StudyStore, destination: StudyStore, training: Training) -> None:
    here, there = source.saves(training), destination.saves(training)
    with there.locked():
        for iteration in set(here.kept_states()) - set(there.kept_states()):
            there.save_state(iteration, here.load_state(iteration))
        if not there.complete:
            there.finish(here.result(), here.load_end(), here.load_mask())
