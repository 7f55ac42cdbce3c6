"""Doing one training of a study and keeping its end, its result and its provenance; `worker` says what to train."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import torch

from lth_core import Ticket
from lth_study import __version__, data, ranks, records
from lth_study.data.parts import Dataset
from lth_study.devices import compute_device, device_name
from lth_study.files import Damaged, StoreError
from lth_study.plan import length
from lth_study.settings import Setting, SettingError
from lth_study.store import StudyStore, Training
from lth_study.training import Stopped
from lth_study.training.train import Job, Trained, train
from lth_study.training.updates import MOMENTS, State


class Trainings:
    """The trainings of a study, in a run store: each is done once and kept.

    `rewinds` are the rewinding iterations whose W_k the dense runs keep. `stop_requested` is asked before every update;
    if it says yes, a checkpoint is saved and `Stopped` is raised. `workers`, the number of processes or threads for the
    study, is recorded. `say` prints a line, for example on what a worker waits for. Raises `SettingError` or
    `StoreError` if these images cannot be trained on or are not those of the store and the records.
    """

    def __init__(
        self,
        store: StudyStore,
        rewinds: Collection[int] = (),
        stop_requested: Callable[[], bool] = lambda: False,
        workers: int = 1,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.setting = setting = store.setting
        self.store, self.rewinds = store, set(rewinds)
        self.stop_requested, self.workers, self.say = stop_requested, workers, say
        self.maker = f"{device_name()}, torch {torch.__version__}"
        device = compute_device()
        if setting.precision == "tf32" and device.type != "cuda":
            raise SettingError(f"precision: tf32 is arithmetic of GPUs, not of the {device.type} here; choose float32")
        images = images_of(setting)
        self.fingerprint = images.fingerprint()
        self.data = images.to(device)
        recorded = set(records.known(setting, store.store)[1]["data_fingerprint"])
        if others := (recorded - {self.fingerprint}) or ({store.images(self.fingerprint)} - {self.fingerprint}):
            raise StoreError(
                f"{setting.name} is trained or recorded with other images (fingerprint {', '.join(sorted(others))}) "
                f"than those here ({self.fingerprint}); keep these runs and records in folders of their own "
                "(LTH_STORE, LTH_RESULTS)"
            )

    def train(self, ticket: Ticket, **options: Any) -> Trained:
        """Train a ticket on the study's images. `training.train` describes the options."""
        return train(self.setting, self.data, ticket, stop_requested=self.stop_requested, **options)

    def end(self, training: Training, ticket: Ticket, keep: Collection[int] = ()) -> tuple[State, dict[str, Any]]:
        """The end, without the optimiser's moments, and the result of a training, done now unless the store has them.

        An end that is damaged is done again. Raises `Busy` when another process is doing it.
        """
        folder = self.store.saves(training, self.maker)
        with suppress(Damaged):
            return folder.load_end(), folder.result()
        with folder.locked():
            with suppress(Damaged):  # done by another process, since we looked
                return folder.load_end(), folder.result()
            if folder.complete:  # and damaged
                folder.discard()
            for left in folder.folder.glob(".checkpoint.safetensors.*"):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
            stop = ticket.iteration + length(training, self.setting)
            trained = self.train(
                ticket, replicate=training.replicate, order=training.order, stop=stop, keep=keep, saves=folder
            )
            ended_at = stop if trained.diverged_at is None else trained.diverged_at
            ended = {name: tensor for name, tensor in trained.state.items() if not name.startswith(MOMENTS)}
            result = {
                "training": vars(training),
                "density": ticket.mask.density,
                "density_by_layer": ticket.mask.density_by_layer(),
                "metrics": dict(trained.metrics),
                "diverged_at": trained.diverged_at,
                "provenance": self.provenance(ended_at - ticket.iteration, trained.seconds),
            }
            folder.finish(result, ended, ticket.mask)
        return ended, result

    def provenance(self, iterations: int, seconds: float) -> dict[str, Any]:
        """Where a number comes from."""
        return {
            "iterations": iterations,
            "seconds": round(seconds, 1),
            "workers": self.workers,
            "device": device_name(),
            "lth_core": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "data_fingerprint": self.fingerprint,
            "finished": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        }


def images_of(setting: Setting) -> Dataset:
    """The data set of a setting, in the processor's memory. Raises `SettingError` if it cannot be trained on."""
    images = data.load(setting.dataset, color=setting.network != "lenet_300_100", size=setting.image_size)
    if setting.batch_size > len(images.train):
        raise SettingError(f"batch_size: {setting.batch_size} is more than the {len(images.train)} training images")
    classes = 1 + max(int(part.labels.max()) for part in (images.train, images.validation, images.test))
    if classes != setting.classes:
        raise SettingError(f"classes: the network has {setting.classes}, and {data.title(images.name)} has {classes}")
    count = ranks.rank_and_count()[1]
    fewest = min(len(part) for part in (images.train, images.validation, images.test))
    if count > fewest:
        raise SettingError(f"WORLD_SIZE: {count} processes are more than {fewest} images to evaluate; start fewer")
    if setting.batch_size % count:
        raise SettingError(f"batch_size: {setting.batch_size} cannot be shared equally by {count} processes")
    return images


def take_part() -> Any:
    """What a process does that trains networks together with others and is not the first of them (`ranks`).

    Returns the first one's last word.
    """
    images: Dataset | None = None
    while isinstance(job := ranks.receive(), Job):
        setting = Setting.from_json(job.setting)
        images = images or images_of(setting).to(compute_device())
        with suppress(Stopped):
            train(setting, images, job.ticket, replicate=job.replicate, order=job.order, stop=job.stop)
    return job
