"""What a redesign must not change: digests, the trainings that figures ask for, trained bits, and their records.

`unchanged.json` holds what this code gave when it was written. Digests and plans hold on every machine. Bits hold for
one kind of processor and one version of torch; elsewhere those tests skip. To compare two commits there, check each of
them out and run, in both checkouts,

    PYTHONPATH=. python tests/test_unchanged.py --write

It writes what the checkout gives into its `unchanged.json`: `diff` the two files. Commit such a file only to add a
processor or where a change of bits is meant, and name that change in the changelog.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from lth_study import Study, plan, preset, run
from lth_study.devices import device_name
from lth_study.presets import profiles, recipes
from lth_study.records import export_store
from lth_study.settings import METHODS, Setting

FILE = Path(__file__).with_name("unchanged.json")
RESULTS = sorted((Path(__file__).parents[1] / "results").glob("*/config.json"))

ONE_ORDER: dict[str, Any] = {"orders": 1, "barriers": False}
ONE_TICKET_EACH = ONE_ORDER | {"rewinds": (2,), "methods": METHODS}
STUDIES: dict[str, dict[str, Any]] = {
    "lenet_300_100": {},
    "resnet20": {},
    "vgg19": ONE_ORDER,
    "resnet50": ONE_TICKET_EACH | {"methods": ("imp",), "width": 0.125, "image_size": 8},
    "inception_v3": ONE_TICKET_EACH | {"width": 0.0625},
    "squeezenet1_0": ONE_TICKET_EACH,
}
"""Network -> what its smoke study has here instead, so that all six are quick enough for a test. LeNet's and
ResNet-20's are whole: two rewinding iterations and levels, controls, two data orders, a repetition, distances and
barriers. VGG-19's lacks further orders and barriers. ImageNet's networks train a dense network and a ticket of each
method, rewound to iteration 2; ResNet-50, the slowest, has no control. ResNet-50 and Inception-v3 are narrower than in
their presets, and ResNet-50 has smaller images."""


def digests() -> dict[str, str]:
    """Every preset, and its digest."""
    names = [(n, recipe, profile) for n in STUDIES for recipe in recipes(n) for profile in profiles(n)]
    return {"-".join(name): preset(*name).setting.digest() for name in names}


def asked() -> dict[str, dict[str, str]]:
    """What every figure of every preset asks for: numbers of trainings and barriers, and a checksum of their names."""
    names = [(n, recipe, profile) for n in STUDIES for recipe in recipes(n) for profile in profiles(n)]
    return {
        "-".join(name): {figure: _asked(preset(*name).only(figure)) for figure in preset(*name).extents}
        for name in names
    }


def _asked(study: Study) -> str:
    trainings, barriers = plan.trainings(study), plan.barriers(study)
    text = "\n".join(map(str, [*trainings, *barriers]))
    checksum = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{len(trainings)} trainings, {len(barriers)} barriers, {checksum}"


def study(network: str, folder: Path) -> dict[str, Any]:
    """Train a network's study: the checksum of each training's files, and the lines of `records.csv`."""
    run(
        preset(network, profile="smoke").only("stability").updated(**STUDIES[network]),
        store=folder / "store",
        workers=1,
    )
    (trained,) = (folder / "store").iterdir()
    ends = sorted(file.parent for file in trained.glob("**/end.safetensors"))
    (exported,) = export_store(folder / "store", folder / "exported")
    return {
        "ends": {end.relative_to(trained).as_posix(): checksum(end) for end in ends},
        "records": (Path(exported) / "records.csv").read_text().splitlines(),
    }


def checksum(training: Path) -> str:
    """SHA-256 over the names, types, shapes and bytes of the tensors that a training ended with and of its mask."""
    digest = hashlib.sha256()
    for file in ("end.safetensors", "mask.safetensors"):
        for name, tensor in sorted(load_file(training / file).items()):
            digest.update(f"{file} {name} {tensor.dtype.str} {tensor.shape} ".encode())
            digest.update(tensor.tobytes())
    return digest.hexdigest()


def machine() -> str:
    """The kind of processor, as far as rounding may depend on it: its name, all of its instructions, and torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line.split(":")[1].split() for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = []
    instructions = hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:8]
    return f"{device_name()}, instructions {instructions}, torch {torch.__version__}"


def kept() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


def test_the_digests_of_all_presets_are_unchanged() -> None:
    assert digests() == kept()["digests"]


def test_the_figures_of_all_presets_ask_for_the_same_trainings_and_barriers() -> None:
    assert asked() == kept()["asked"]


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.parent.name)
def test_a_recorded_study_has_the_digest_in_its_folders_name(file: Path) -> None:
    assert Setting.from_json(file.read_text()).digest() == file.parent.name.rpartition("-")[2]


@pytest.mark.parametrize("network", STUDIES)
def test_a_study_ends_with_the_same_bits_and_records(network: str, tmp_path: Path) -> None:
    here = kept()["studies"].get(machine())
    if here is None:
        pytest.skip(
            f"{FILE.name} has no checksums of {machine()}. To compare two commits here, check each of them out, run "
            "PYTHONPATH=. python tests/test_unchanged.py --write in both checkouts, and diff their tests/unchanged.json"
        )
    found = study(network, tmp_path)
    assert found["ends"] == here[network]["ends"]
    assert found["records"] == here[network]["records"]


def write() -> None:
    """Write what this checkout gives on this machine into its file; what other machines gave stays there."""
    others = kept()["studies"] if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LTH_RESULTS"] = f"{folder}/results"  # what is recorded already would not be trained
        here = {network: study(network, Path(folder, network)) for network in STUDIES}
    content = {"digests": digests(), "asked": asked(), "studies": others | {machine(): here}}
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: PYTHONPATH=. python tests/test_unchanged.py --write")
    write()
