"""The command `lth agenda`. `cli` adds it to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lth_study.arguments import UNFINISHED, Device, Json, Pack, Store


def agenda(
    profile: Annotated[str, typer.Option(help="Scale: laptop (for processors) or paper (for GPUs).")] = "laptop",
    device: Device = None,
    run: Annotated[bool, typer.Option("--run", help="Train here, in this order; export each replicate.")] = False,
    time_limit: Annotated[float | None, typer.Option(min=0, help="Stop cleanly after this many seconds.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Networks at once, as for lth run.")] = None,
    store: Store = None,
    destination: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/.")] = None,
    pack: Pack = "replicate",
    as_json: Json = False,
) -> None:
    """List the trainings that the study lacks, their hours, and how many claims they would decide. --run trains them.

    Hours are those of one core or of one GPU. With --run, the exit status is 3 when it stopped early.
    """
    from lth_study import records
    from lth_study.agenda.parts import parts
    from lth_study.agenda.table import absent, agenda, known, shown
    from lth_study.report import claims
    from lth_study.settings import SettingError
    from lth_study.units import printed, units

    idle = {"--time-limit": time_limit, "--workers": workers, "--destination": destination}
    if without := [name for name, value in idle.items() if value is not None and not run]:
        raise SettingError(f"{without[0]}: it has no effect without --run; leave it out, or add --run")
    if run and as_json:
        raise SettingError("--json: it lists the units and trains nothing; leave out --run")
    if device is None or run:
        from lth_study.devices import device_name

        if device not in (None, device_name()):
            raise SettingError(f"--device {device}: with --run it is this machine's, {device_name()}; leave it out")
        device = device_name()
    folder, listed = store or records.store_folder(), parts(profile)
    table = agenda(listed, claims.read(), folder, device, ranked=profile != "laptop")  # the laptop order is fixed
    in_order = [listed[place] for place in table.index]
    if as_json:
        studies = [study for part in in_order for study in part.studies]
        lacking = lambda study: absent(study, known(folder, study.setting), device)  # noqa: E731
        print(printed(units(studies, pack, lacking), device, as_json))
        return
    print(f"{profile}, on {device}")
    print(shown(table))
    if not run:
        return
    from lth_study.agenda.run import run_parts, what_is_left
    from lth_study.training import Stopped

    goal, stopped = destination or records.results_folder(), False
    try:
        run_parts(in_order, folder, goal, workers=workers, seconds=time_limit, progress="bar")
    except Stopped as reason:
        stopped = True
        print(f"{reason or 'stopped'}; the same command goes on from here")
    for line in what_is_left(in_order, folder, device):
        print(line)
    if stopped:
        raise typer.Exit(UNFINISHED)
