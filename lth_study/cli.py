"""The command line: `lth run`, `lth status`, `lth plan`, `lth agenda`, `lth export`, `lth import`, `lth tickets`.

`__main__` starts it. Each command imports what it needs when it runs: torch, pandas and pydantic take long to import.
Commands call the functions that notebooks call: `runner` trains, `records` reads and merges, `agenda` ranks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lth_study import __version__
from lth_study.agenda.command import agenda
from lth_study.arguments import (
    UNFINISHED,
    DataSet,
    Device,
    Figure,
    Json,
    KeepRecorded,
    Levels,
    Network,
    Orders,
    Pack,
    Profile,
    Recipe,
    Replicates,
    Rewinds,
    Set,
    Store,
)

if TYPE_CHECKING:
    from lth_study.settings import Setting

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(agenda)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Train lottery tickets with rewinding and measure how stable they are."""
    if version:
        print(__version__)
        raise typer.Exit


@app.command("run")
def run_command(
    network: Network,
    recipe: Recipe = "standard",
    profile: Profile = "paper",
    figure: Figure = None,
    rewinds: Rewinds = None,
    levels: Levels = None,
    replicates: Replicates = None,
    orders: Orders = None,
    dataset: DataSet = None,
    settings: Set = None,
    store: Store = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Networks at once. Default: 1 a core, 12 a GPU.")] = None,
    time_limit: Annotated[float | None, typer.Option(min=0, help="Stop cleanly after this many seconds.")] = None,
    part: Annotated[str | None, typer.Option(help="Only dense, rewind=K or level=N, as lth plan gives it.")] = None,
    no_stand_in: Annotated[bool, typer.Option("--no-stand-in", help="Fail where the data set is missing.")] = False,
) -> None:
    """Train what a study lacks. After an interruption, the same command resumes where it stopped.

    Several GPUs train each network together with:
    torchrun --nproc-per-node GPUS -m lth_study run NETWORK.

    Exit status: 0 when everything is done, 3 when it stopped early. torchrun reports an early stop as a failure.
    """
    from lth_study.commands import study_of
    from lth_study.records import store_folder
    from lth_study.runner import train_missing
    from lth_study.training import Stopped

    study = study_of(network, recipe, profile, figure, rewinds, levels, replicates, orders, dataset, settings)
    options: Any = {"workers": workers, "seconds": time_limit, "progress": "bar", "part": part}
    try:
        train_missing(study, store or store_folder(), stand_in=not no_stand_in, **options)
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from here")
        raise typer.Exit(UNFINISHED) from None


@app.command()
def status(
    network: Network,
    recipe: Recipe = "standard",
    profile: Profile = "paper",
    figure: Figure = None,
    rewinds: Rewinds = None,
    levels: Levels = None,
    replicates: Replicates = None,
    orders: Orders = None,
    dataset: DataSet = None,
    settings: Set = None,
    store: Store = None,
) -> None:
    """Show how much of a study the results folder and the run store hold."""
    from lth_study import plan, records
    from lth_study.commands import study_of

    folder = store or records.store_folder()
    study = study_of(network, recipe, profile, figure, rewinds, levels, replicates, orders, dataset, settings)
    known, _ = records.known(study.setting, folder)
    print(study.setting.name)
    for other in _recorded_with_other_images(folder, study.setting):
        print(f"also trained on {other}: lth status ... --dataset {other}")
    for name, extent in study.extents.items():
        part = study.only(name)
        lost = plan.lost(known, part)
        absent = {*plan.missing(known, part), *lost}
        wanted = plan.trainings(part)
        diverged = f"; {len(lost)} diverged, or build on one that did" if lost else ""
        print(f"{name}: {len(wanted) - len(absent)} of {len(wanted)} trainings recorded{diverged}")
        unmeasured = set(plan.unmeasured(known, part))
        for what, asked in (("distances", plan.distances(part)), ("error barriers", plan.barriers(part))):
            possible = {c for c in asked if not {c.a, c.b} & set(lost)}
            if possible:
                print(f"  {len(possible - unmeasured)} of {len(possible)} {what} measured")
        for rewind in extent.rewinds:
            here = [t for t in wanted if t.rewind == rewind and t.method != "dense"]
            print(f"  rewound to {rewind}: {sum(t not in absent for t in here)} of {len(here)}")


@app.command("plan")
def plan_command(
    network: Network,
    recipe: Recipe = "standard",
    profile: Profile = "paper",
    figure: Figure = None,
    rewinds: Rewinds = None,
    levels: Levels = None,
    replicates: Replicates = None,
    orders: Orders = None,
    dataset: DataSet = None,
    settings: Set = None,
    store: Store = None,
    pack: Pack = "replicate",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """List the units of work that a study lacks, each for one machine: what it needs, how long it takes.

    workflow/Snakefile runs them on one machine or on a cluster. Seconds and hours are those of one core or of one GPU.
    """
    from lth_study import plan, records
    from lth_study.commands import study_of
    from lth_study.units import printed, units

    study = study_of(network, recipe, profile, figure, rewinds, levels, replicates, orders, dataset, settings)
    known, _ = records.known(study.setting, store or records.store_folder())
    print(printed(units([study], pack, lambda study: plan.missing(known, study)), device, as_json))


@app.command("export")
def export_command(
    destination: Annotated[Path | None, typer.Argument(help="Folder of records. Default: results/.")] = None,
    store: Store = None,
    keep_recorded: KeepRecorded = False,
    weights: Annotated[Path | None, typer.Option(help="Folder for weights to continue IMP from elsewhere.")] = None,
) -> None:
    """Write the run store's results as records: small CSV files to commit or to copy to another machine.

    Refuses values that disagree with recorded ones.
    """
    from lth_study import records

    folder = store or records.store_folder()
    for line in records.export_store(folder, destination or records.results_folder(), keep_recorded):
        print(line)
    _carry(folder, weights)


@app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(help="Folder of records that `lth export` wrote, here or elsewhere.")],
    destination: Annotated[Path | None, typer.Argument(help="Folder of records. Default: results/.")] = None,
    store: Store = None,
    keep_recorded: KeepRecorded = False,
    weights: Annotated[Path | None, typer.Option(help="Folder that `lth export --weights` wrote.")] = None,
) -> None:
    """Merge records from another machine into ours. Refuses values that disagree with recorded ones.

    With --weights, runs continue here from the deepest level trained there.
    """
    from lth_study import records

    for folder in records.import_folder(source, destination or records.results_folder(), keep_recorded):
        print(folder)
    _carry(weights, store or records.store_folder())


@app.command("tickets")
def tickets_command(
    network: Network,
    destination: Annotated[Path, typer.Option(help="Folder for the tickets.")] = Path("tickets"),
    recipe: Recipe = "standard",
    profile: Profile = "paper",
    rewinds: Rewinds = None,
    levels: Levels = None,
    replicates: Replicates = None,
    dataset: DataSet = None,
    settings: Set = None,
    store: Store = None,
    trained: Annotated[bool, typer.Option("--trained", help="Keep the weights at the end of training too.")] = False,
) -> None:
    """Pack tickets of the run store: mask, rewound weights and a card each. torch and safetensors can load them."""
    from lth_study.commands import study_of
    from lth_study.records import store_folder
    from lth_study.tickets import pack

    study = study_of(network, recipe, profile, "stability", rewinds, levels, replicates, None, dataset, settings)
    for folder in pack(study, store or store_folder(), destination, trained):
        print(folder)


def _carry(source: Path | None, destination: Path | None) -> None:
    """Copy the weights that IMP continues from. Does nothing when a folder is None."""
    if source is None or destination is None:
        return
    from lth_study.weights import carry

    for line in carry(source, destination):
        print(line)


def _recorded_with_other_images(store: Path, setting: Setting) -> list[str]:
    """The other data sets that a study is recorded with, such as a stand-in for a data set that was missing."""
    from lth_study.records import known
    from lth_study.settings import DATASETS

    others = (setting.updated(dataset=name) for name in DATASETS if name != setting.dataset)
    return [other.dataset for other in others if len(known(other, store)[0])]
