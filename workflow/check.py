"""A minute of checks on a machine that `bundle.py` prepared. `bundle.py check` starts it with the right variables.

It ends with "ready", or with a line for each failure and exit status 1. Nothing that it trains is kept.
"""

from __future__ import annotations

import csv
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

RECORDS = Path(__file__).resolve().parents[1] / "results"
DATA = {"MNIST": "mnist", "cifar-10-batches-py": "cifar10", "imagenette": "imagenette"}
"""Folder of a data set -> its name in records."""
NETWORKS = ("lenet_300_100", "resnet20", "vgg19", "resnet50", "inception_v3", "squeezenet1_0")
SMOKE = ("--profile", "smoke", "--figure", "stability", "--rewinds", "0", "--levels", "1", "--orders", "1",
         "--workers", "1", "--set", 'methods=["imp"]', "--set", "barriers=false")  # fmt: skip
"""Options that leave two trainings of a network: dense, and pruned once."""
NARROW = ("--set", "width=0.125")
"""Lets ResNet-50 and Inception-v3 pass on a processor in seconds."""
UPDATES = 300
LEARNED = 1.5
"""Cross-entropy that so many updates must reach; guessing among ten classes has 2.3."""


def main() -> None:
    failures = []

    def attempt(what: str, act: Callable[[], str]) -> None:
        try:
            print(f"{what}: {act()}", flush=True)
        except Exception as error:  # whatever it is, the other checks go on
            failures.append(f"{what}: {(str(error).strip() or type(error).__name__).splitlines()[-1]}")

    attempt("imports", imports)
    attempt("device", device)
    attempt("lth --version", partial(lth, "--version"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda network: attempt(network, partial(smoke, network)), NETWORKS))
    for folder, dataset in DATA.items():
        if Path(os.environ["LTH_DATA"], folder).is_dir():
            attempt(dataset, partial(fingerprints, dataset))
    if on_a_gpu():
        for precision in ("float32", "bfloat16"):
            attempt(f"resnet20 in {precision}", partial(learns, precision))
    if failures:
        sys.exit("\n".join(failures))
    print("ready")


def on_a_gpu() -> bool:
    try:
        import torch
    except ImportError:  # which the imports have said
        return False
    return torch.cuda.is_available()


def imports() -> str:
    """Import every module of the package; the GPU's kernels only where there is a GPU."""
    import torch

    packages = [import_module(name) for name in ("lth_core", "lth_study")]
    walks = (pkgutil.walk_packages(package.__path__, f"{package.__name__}.") for package in packages)
    names = [module.name for walk in walks for module in walk]
    for name in names:
        if on_a_gpu() or not name.endswith(".kernels"):
            import_module(name)
    return f"{len(names)} modules, torch {torch.__version__}"


def device() -> str:
    from lth_study.devices import device_name

    return device_name()


def lth(*arguments: str) -> str:
    """The last line that a command `lth` prints. Its runs and records are thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"LTH_STORE": f"{scratch}/runs", "LTH_RESULTS": f"{scratch}/results"}
        command = [sys.executable, "-m", "lth_study", *arguments]
        done = subprocess.run(command, env=os.environ | folders, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def smoke(network: str) -> str:
    """Train a network, prune it and train it again, in seconds."""
    return lth("run", network, *SMOKE, *(NARROW if network in ("resnet50", "inception_v3") else ()))


def fingerprints(dataset: str) -> str:
    """Compare a data set with what the records say it was, at every size that is recorded."""
    from lth_study import data

    recorded: dict[tuple[bool, int | None], set[str]] = defaultdict(set)
    for file in RECORDS.glob("*/config.json"):
        settings = json.loads(file.read_text())
        if settings["dataset"] == dataset:
            with open(file.with_name("provenance.csv"), newline="") as rows:
                known = {row["data_fingerprint"] for row in csv.DictReader(rows)}
            recorded[settings["network"] != "lenet_300_100", settings["image_size"]] |= known
    found = []
    for (color, size), known in (recorded or {(dataset != "mnist", None): set()}).items():
        fingerprint = data.load(dataset, color=color, size=size).fingerprint()
        if known and fingerprint not in known:
            raise ValueError(f"fingerprint {fingerprint} at size {size}; recorded is {', '.join(sorted(known))}")
        found.append(f"{fingerprint} {'as recorded' if known else 'not recorded'}")
    return ", ".join(found)


def learns(precision: str, **changes: object) -> str:
    """Train ResNet-20 on the embedded MNIST images; the loss that it reaches must be low."""
    import torch

    from lth_core import Mask, subnetwork
    from lth_study import data, preset, trainer
    from lth_study.devices import compute_device
    from lth_study.networks import build, initial_weights

    brief = {"dataset": "mnist_embedded", "iterations": UPDATES, "drops": ()}
    setting = preset("resnet20", "low").setting.updated(**{**brief, "precision": precision, **changes})
    images = data.load("mnist_embedded", color=True, size=setting.image_size).to(compute_device())
    weights = initial_weights(setting, torch.Generator().manual_seed(1))
    _, ended = trainer(setting, images, replicate=1)(subnetwork(weights, Mask.ones(build(setting)), 0, 0), None)
    outcome = f"loss {ended['train_loss']:.2f} after {setting.iterations} updates"
    if not ended["train_loss"] < LEARNED:
        raise ValueError(f"{outcome}; expected less than {LEARNED}")
    return outcome


if __name__ == "__main__":
    main()
