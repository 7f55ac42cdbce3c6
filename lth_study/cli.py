"""The command line: `lth run`, `lth status`, `lth agenda`, `lth export`, `lth import`, `lth tickets`.

`__main__` starts it. Each command imports what it needs when it runs: torch, pandas and pydantic take long to import.
Commands call the functions that notebooks call: `runner` trains, `records` reads and merges, `agenda` ranks.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lth_study import __version__

if TYPE_CHECKING:
    from lth_study.settings import Setting

UNFINISHED = 3
"""Exit status of a run that its time limit or a signal stopped early."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Network = Annotated[str, typer.Argument(help="Network, e.g. lenet_300_100.")]
Recipe = Annotated[str, typer.Option(help="Training recipe, e.g. standard, low or warmup.")]
Profile = Annotated[str, typer.Option(help="Scale: smoke (seconds), laptop (minutes) or paper.")]
Figure = Annotated[str | None, typer.Option(help="Only this figure's trainings. Default: all figures.")]
Rewinds = Annotated[str | None, typer.Option(help="Rewinding iterations, e.g. 0,500.")]
Levels = Annotated[int | None, typer.Option(help="Number of prunings.")]
Replicates = Annotated[str | None, typer.Option(help="Number of replicates (3), or their seeds (1,4,5).")]
Orders = Annotated[int | None, typer.Option(help="Data orders per replicate.")]
DataSet = Annotated[str | None, typer.Option("--dataset", help="Data set, or folder:PATH. Default: the network's own.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting, e.g. precision=bfloat16. Repeat for more.")
]
Store = Annotated[Path | None, typer.Option(help="Folder of the run store. Default: LTH_STORE, or runs/.")]
KeepRecorded = Annotated[
    bool, typer.Option("--keep-recorded", help="Keep recorded values that disagree, and add all others.")
]


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
) -> None:
    """Train what a study lacks. After an interruption, the same command resumes where it stopped.

    Several GPUs train each network together with:
    torchrun --nproc-per-node GPUS -m lth_study run NETWORK.

    Exit status: 0 when everything is done, 3 when it stopped early. torchrun reports an early stop as a failure.
    """
    from lth_study.options import study_of
    from lth_study.progress import Style
    from lth_study.records import store_folder
    from lth_study.runner import train_missing
    from lth_study.training import Stopped

    study = study_of(network, recipe, profile, figure, rewinds, levels, replicates, orders, dataset, settings)
    style: Style = "bar" if sys.stderr.isatty() else "lines"
    try:
        train_missing(study, store or store_folder(), workers=workers, seconds=time_limit, progress=style)
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
    from lth_study.options import study_of

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


@app.command()
def agenda(
    profile: Annotated[str, typer.Option(help="Scale: laptop (for processors) or paper (for GPUs).")] = "laptop",
    device: Annotated[
        str | None, typer.Option(help="Device to estimate hours for, as records name it. Default: this one.")
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Train here, in this order; export each replicate.")] = False,
    time_limit: Annotated[float | None, typer.Option(min=0, help="Stop cleanly after this many seconds.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Networks at once, as for lth run.")] = None,
    store: Store = None,
    destination: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/.")] = None,
) -> None:
    """List the trainings that the study lacks, their hours, and how many claims they would decide. --run trains them.

    Hours are those of one core or of one GPU. With --run, the exit status is 3 when it stopped early.
    """
    from lth_study import records
    from lth_study.agenda.parts import parts
    from lth_study.agenda.table import agenda, shown
    from lth_study.report import claims

    if device is None or run:
        from lth_study.devices import device_name
        from lth_study.settings import SettingError

        if device not in (None, device_name()):
            raise SettingError(f"--device {device}: with --run it is this machine's, {device_name()}; leave it out")
        device = device_name()
    folder, listed = store or records.store_folder(), parts(profile)
    table = agenda(listed, claims.read(), folder, device, ranked=profile != "laptop")  # the laptop order is fixed
    print(f"{profile}, on {device}")
    print(shown(table))
    if not run:
        return
    from lth_study.agenda.run import run_parts, what_is_left
    from lth_study.progress import Style
    from lth_study.training import Stopped

    in_order = [listed[place] for place in table.index]
    style: Style = "bar" if sys.stderr.isatty() else "lines"
    goal, stopped = destination or records.results_folder(), False
    try:
        run_parts(in_order, folder, goal, workers=workers, seconds=time_limit, progress=style)
    except Stopped as reason:
        stopped = True
        print(f"{reason or 'stopped'}; the same command goes on from here")
    for line in what_is_left(in_order, folder, device):
        print(line)
    if stopped:
        raise typer.Exit(UNFINISHED)


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
    from lth_study.options import study_of
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
