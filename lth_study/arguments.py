"""Arguments, options and the exit status that commands of `lth` share. It imports nothing that takes long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

UNFINISHED = 3
"""Exit status of a run that its time limit or a signal stopped early."""

Network = Annotated[str, typer.Argument(help="Network, e.g. lenet_300_100.")]
Recipe = Annotated[str, typer.Option(help="Training recipe, e.g. standard, low or warmup.")]
Profile = Annotated[str, typer.Option(help="Scale: smoke, laptop (hours on a core), tenth, imagenette or paper.")]
Figure = Annotated[str | None, typer.Option(help="Only this part: stability, accuracy, levels or extreme.")]
Rewinds = Annotated[str | None, typer.Option(help="Rewinding iterations, e.g. 0,500.")]
Levels = Annotated[int | None, typer.Option(help="Number of prunings.")]
Replicates = Annotated[str | None, typer.Option(help="Number of replicates (3), or their seeds (1,4,5).")]
Orders = Annotated[int | None, typer.Option(help="Data orders per replicate.")]
DataSet = Annotated[str | None, typer.Option("--dataset", help="Data set, or folder:PATH. Default: the network's own.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Any other setting, e.g. precision=bfloat16. Repeat for more.")
]
Store = Annotated[Path | None, typer.Option(help="Folder of the run store. Default: LTH_STORE, or runs/.")]
Device = Annotated[str | None, typer.Option(help="Device to estimate for, as records name it. Default: this one.")]
Pack = Annotated[str, typer.Option(help="A unit is a replicate, a rewind (rewinding iteration), or a level.")]
Json = Annotated[bool, typer.Option("--json", help="Print the units as JSON, for workflow/Snakefile.")]
KeepRecorded = Annotated[
    bool, typer.Option("--keep-recorded", help="Keep recorded values that disagree, and add all others.")
]
