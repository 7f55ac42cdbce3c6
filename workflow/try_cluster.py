"""`make test-cluster`: the workflow on a Slurm of its own. Jobs are preempted, a node dies, the records are the same.

It starts Slurm's daemons on this machine, without systemd, with one core a node. Three copies of a small study of two
replicates go through workflow/Snakefile at once, each on two nodes. One copy is preempted and requeued by Slurm, one is
preempted and cancelled, and of one a node dies. All must end with the records of a plain `lth run`, and with every
training that was finished before the disturbance untouched. Takes under five minutes. Needs root and Debian's packages
slurmctld, slurmd, slurm-client and munge; without them it says so and does nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryDirectory

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
LTH = ROOT / ".venv/bin/lth"
SNAKEMAKE = ROOT / ".venv-flow/bin/snakemake"
CONFIGURATION = Path("/etc/slurm/slurm.conf")
"""The only place where Snakemake's plugin looks for it."""
STUDY = ["lenet_300_100", "--profile", "smoke", "--figure", "stability", "--replicates", "2", "--set", "iterations=300"]
CASES = ["requeue", "cancel", "dies"]
NODES = [f"{case}{number}" for case in CASES for number in (1, 2)]
STOPPED = "the same command goes on from here"
"""What `lth run` says when it stopped early."""
OF_A_RUN = ["seconds", "finished"]
"""Columns of provenance that differ between two runs of the same training."""


def configuration(folder: Path) -> str:
    """slurm.conf. A node is a slurmd with one core; `urgent` preempts the partitions of the cases."""
    host = gethostname().partition(".")[0]
    nodes = [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={16820 + place} CPUs=1 RealMemory=4000"
        for place, node in enumerate(NODES)
    ]
    partitions = [
        f"PartitionName={case} Nodes={case}1,{case}2 PriorityTier=1 PreemptMode={mode}"
        for case, mode in zip(CASES, ("REQUEUE", "CANCEL", "OFF"), strict=True)
    ]
    return "\n".join(
        [
            "ClusterName=lth",
            f"SlurmctldHost={host}(127.0.0.1)",
            "SlurmUser=root",
            "SlurmctldPort=16818",
            f"AuthInfo=socket={folder}/munge.socket,cred_expire=5",  # a requeued job waits for as long
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/%n.pid",
            f"SlurmctldLogFile={folder}/slurmctld.log",
            f"SlurmdLogFile={folder}/%n.log",
            "SlurmdParameters=config_overrides",  # more nodes than the machine has cores
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=1",
            "SlurmdTimeout=10",
            "KillWait=10",
            "JobFileAppend=1",
            "ReturnToService=2",
            *nodes,
            *partitions,
            f"PartitionName=urgent Nodes={','.join(NODES)} PriorityTier=2",
            "",
        ]
    )


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Slurm's daemons, with all that they write in a folder but for the one configuration file."""
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with open(folder / f"{Path(command[0]).name}.out", "ab") as log:
            daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    key, socket = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    (folder / "state").mkdir()
    CONFIGURATION.parent.mkdir(exist_ok=True)
    with open(CONFIGURATION, "x") as file:
        file.write(configuration(folder))
    try:
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        start("/usr/sbin/munged", "--foreground", "--force", f"--socket={socket}", *files)
        until(socket.exists, 5, "munged does not start")
        start("/usr/sbin/slurmctld", "-D", "-c")
        for node in NODES:
            start("/usr/sbin/slurmd", "-D", "-N", node)
        until(lambda: said("sinfo", "-h", "-N", "-t", "idle").count("\n") >= len(NODES), 10, "nodes are not ready")
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(10)
        CONFIGURATION.unlink()


def until(holds: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Wait until something holds. Ends the program with a message after this many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"after {seconds:.0f} s: {otherwise}")
        time.sleep(0.05)


def said(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def workflow(case: str, folder: Path) -> subprocess.Popen[bytes]:
    """The study in workflow/Snakefile on the nodes of a case."""
    place = folder / case
    place.mkdir()
    command = [SNAKEMAKE, "records", "--snakefile", ROOT / "workflow/Snakefile", "--directory", place]
    command += ["--profile", ROOT / "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "2"]
    command += ["--default-resources", f"slurm_partition={case}", "runtime=30", "--latency-wait", "5"]
    command += ["--slurm-keep-successful-logs"]
    command += ["--config", f"plan=plan {' '.join(STUDY)}", f"folder={place}", f"results={place}/results"]
    with open(place / "log", "wb") as log:
        return subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def finished(folder: Path) -> dict[Path, int]:
    """The results of trainings in a folder, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")}


def node_of(case: str, replicate: int) -> str:
    """The node that trains a replicate of a case; "" if none does."""
    jobs = [line.split() for line in said("squeue", "-h", "-t", "R", "-p", case, "-o", "%N %k").splitlines()]
    return next((job[0] for job in jobs if job[-1].endswith(f"replicate_{replicate}")), "")


def disturb(case: str, folder: Path) -> dict[Path, int]:
    """Stop the first replicate of a case midway. Returns what it had finished."""
    store = folder / case / "stores"
    until(lambda: len(finished(store)) > 4, 120, f"{case}: no training is finished")
    file = next(iter(finished(store)))
    replicate = int(next(part for part in file.parts if part.startswith("replicate_")).removeprefix("replicate_"))
    node = node_of(case, replicate)
    before = finished(store)
    if case == "dies":
        for process in processes(node):
            with suppress(ProcessLookupError):  # it has ended
                os.kill(process, signal.SIGKILL)
    else:
        said("sbatch", "-p", "urgent", "-w", node, "-o", "/dev/null", "--wrap", "sleep 5")
    print(f"{case}: {node} disturbed, {len(before)} trainings finished", flush=True)
    return before


def processes(node: str) -> list[int]:
    """The processes of a node: its slurmd, those of its jobs, and before these the ones that would report their end."""
    daemon, jobs = list[int](), dict[int, int]()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if command[-3:-1] == [b"-N", node.encode()]:
            daemon.append(int(process.name))
        elif f"SLURMD_NODENAME={node}".encode() in environment:
            jobs[int(process.name)] = parent
    steps = {parent for parent in jobs.values() if Path(f"/proc/{parent}/comm").read_text() == "slurmstepd\n"}
    return [*daemon, *steps, *jobs]


def tables(folder: Path) -> tuple[bytes, pd.DataFrame]:
    """Records, byte for byte, and provenance without what differs from run to run."""
    (records,) = folder.glob("*/records.csv")
    return records.read_bytes(), pd.read_csv(records.with_name("provenance.csv")).drop(columns=OF_A_RUN)


def main() -> None:
    lacking = [name for name in ("slurmctld", "slurmd", "squeue", "munged") if not shutil.which(name)]
    if os.geteuid() or lacking:
        why = f"there is no {', '.join(lacking)}" if lacking else "only root can start Slurm's daemons"
        print(f"make test-cluster: skipped: {why}. As root: apt-get install slurmctld slurmd slurm-client munge")
        return
    if CONFIGURATION.exists():
        sys.exit(f"{CONFIGURATION} exists; expected a machine without a Slurm of its own; run this elsewhere")
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the daemons end too
    os.environ |= {"OMP_NUM_THREADS": "1", "LTH_DATA": "/nonexistent"}
    with TemporaryDirectory(prefix="lth-cluster-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with slurm(folder), ExitStack() as started:
            print(f"Slurm started in {time.monotonic() - began:.0f} s", flush=True)
            runs = {case: workflow(case, folder) for case in CASES}
            for run in runs.values():
                started.callback(run.kill)
            before = {case: disturb(case, folder) for case in CASES}
            os.environ |= {"LTH_STORE": f"{folder}/plain/store", "LTH_RESULTS": f"{folder}/plain/results"}
            subprocess.run([LTH, "run", *STUDY, "--workers", "1"], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([LTH, "export"], check=True, stdout=subprocess.DEVNULL)
            records, provenance = tables(folder / "plain/results")
            for case, run in runs.items():
                if run.wait(280):
                    sys.exit(f"{case}: snakemake failed:\n{(folder / case / 'log').read_text()}")
                after = finished(folder / case / "stores")
                assert before[case].items() < after.items(), f"{case}: trained again, or nothing was left"
                found = tables(folder / case / "results")
                assert found[0] == records, f"{case}: other records than those of a plain run"
                pd.testing.assert_frame_equal(found[1], provenance)
                logs = "".join(file.read_text() for file in (folder / case / ".snakemake/slurm_logs").rglob("*.log"))
                assert case == "dies" or STOPPED in logs, f"{case}: lth run did not stop cleanly"
                print(f"{case}: the same records", flush=True)
    print(f"make test-cluster: passed in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
