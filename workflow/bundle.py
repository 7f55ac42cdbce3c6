"""Carry the study to a machine that has Python and torch but no network.

    python workflow/bundle.py pack DEST --piece 48 --python 3.12 --data data cifar-10-batches-py MNIST
    python bundle.py unpack SOURCE TARGET
    python bundle.py check TARGET

The first command runs in a checkout. DEST then holds the committed files, wheels and data as one archive, cut into
pieces. The other two run on the other machine, with the copy of this script that lies in DEST; they need nothing
beside the standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
NAME = "bundle.tar.xz"
MANIFEST = "manifest.json"
UNPACKED = "unpacked.json"
"""Marks a folder that `unpack` may write to again."""
THERE_ALREADY = ("torch", "torchvision")


class Pieces:
    """A file to write to, kept as files of at most `size` bytes; `sums` has the SHA-256 of each that is full."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.sums: dict[str, str] = {}
        self.held = bytearray()

    def write(self, content: bytes) -> None:
        self.held += content
        while len(self.held) >= self.size:
            self.cut()

    def cut(self) -> None:
        piece = bytes(self.held[: self.size])
        del self.held[: self.size]
        name = f"{NAME}.{len(self.sums):03d}"
        (self.folder / name).write_bytes(piece)
        self.sums[name] = hashlib.sha256(piece).hexdigest()


def blocks(paths: Sequence[Path]) -> Iterator[bytes]:
    """The contents of files, one after another, in small blocks."""
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(2**16):
                yield block


def needed(python: str) -> list[str]:
    """The pinned releases that the project imports under a Python like 3.12 on Linux, without torch and its own."""
    from packaging.requirements import Requirement  # here: the environment has it, the other machine may not
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(line.split("==")[0]): line for line in lines if "==" in line and line[0] != "#"}
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    there = {"python_version": python, "python_full_version": f"{python}.0", "extra": "", **linux}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = list(map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["study"]]))
    found: set[str] = set()
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name not in {*found, *THERE_ALREADY} and (need.marker is None or need.marker.evaluate(there)):
            found.add(name)
            waiting += map(Requirement, requires(name) or [])
    return sorted(pins[name] for name in found)


def download(pins: Sequence[str], folder: Path, python: str, platform: str) -> None:
    """Fetch the wheels of exact releases. Raises `CalledProcessError` where pip does, which says why."""
    platforms = [platform]
    if platform.startswith("manylinux_2_"):  # pip takes the tag literally; older ones run on the machine as well
        minor, machine = platform.removeprefix("manylinux_2_").split("_", 1)
        platforms = [f"manylinux_2_{n}_{machine}" for n in range(int(minor), 16, -1)] + [f"manylinux2014_{machine}"]
    chosen = [option for name in platforms for option in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--no-deps", "--dest", folder]
    subprocess.run([*command, "--python-version", python, *chosen, *pins], check=True)


def pack(
    destination: Path,
    *,
    piece: int,
    data: Sequence[str] = (),
    python: str = f"{sys.version_info[0]}.{sys.version_info[1]}",
    platform: str = "manylinux_2_28_x86_64",
    fetch: Callable[[Sequence[str], Path, str, str], None] = download,
) -> None:
    """Write pieces of at most `piece` MiB, their manifest and this script. `data`: a folder, then names in it."""
    if piece < 1 or len(data) == 1:
        sys.exit(f"bundle: --piece {piece} must be 1 MiB or more, and --data takes a folder and names in it: {data}")
    folders = [Path(data[0]) / name for name in data[1:]]
    if absent := [str(folder) for folder in folders if not folder.is_dir()]:
        sys.exit(f"bundle: no folder {', '.join(absent)}; --data takes a folder and the names of folders in it")
    destination.mkdir(parents=True, exist_ok=True)
    for old in (*destination.glob(f"{NAME}.*"), destination / MANIFEST):
        old.unlink(missing_ok=True)
    pieces = Pieces(destination, piece * 2**20)
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    with (
        tempfile.TemporaryDirectory() as temporary,
        lzma.open(pieces, "w", preset=1) as compressed,  # wheels and images: more effort saves few bytes
        tarfile.open(fileobj=compressed, mode="w|") as archive,
    ):
        code, wheels = Path(temporary, "code.tar"), Path(temporary, "wheels")
        subprocess.run([*git, "archive", "--prefix=code/", f"--output={code}", commit], check=True)
        with tarfile.open(code) as committed:
            for member in committed:
                archive.addfile(member, committed.extractfile(member) if member.isfile() else None)
        wheels.mkdir()
        fetch(needed(python), wheels, python, platform)
        archive.add(wheels, "wheels", filter=_visible)
        for folder in folders:
            archive.add(folder, f"data/{folder.name}", filter=_visible)
    if pieces.held:
        pieces.cut()
    manifest = {"commit": commit, "python": python, "pieces": pieces.sums}
    (destination / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.copy(__file__, destination / "bundle.py")
    print(f"commit {commit[:12]}, wheels for Python {python}, data: {', '.join(data[1:]) or 'none'}")
    print(f"{len(pieces.sums)} pieces of at most {piece} MiB in {destination}")


def _visible(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leaves out hidden files: caches beside a data set. Forgets who owns the others."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if Path(member.name).name.startswith(".") else member


def unpack(source: Path, target: Path) -> None:
    """Verify every piece, then replace `code`, `wheels` and `packages` in the target and add the data.

    What the study wrote there, in `runs` and `results`, stays.
    """
    try:
        manifest = json.loads((source / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"bundle: {source / MANIFEST} cannot be read ({error}); carry it there again")
    problems = []
    for name, expected in manifest["pieces"].items():
        if not (source / name).is_file():
            problems.append(f"{name} is missing")
        elif hashlib.sha256((source / name).read_bytes()).hexdigest() != expected:
            problems.append(f"{name} is altered")
    if problems:
        sys.exit(f"bundle: nothing unpacked: {'; '.join(problems)}. Carry these pieces to {source} again")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != manifest["python"]:
        sys.exit(f"bundle: the wheels are for Python {manifest['python']}, this is {here}; pack with --python {here}")
    if target.exists() and any(target.iterdir()) and not (target / UNPACKED).exists():
        sys.exit(f"bundle: {target} holds other files; choose an empty folder, or one that unpack made")
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / MANIFEST, target / UNPACKED)
    for name in ("code", "wheels", "packages"):
        shutil.rmtree(target / name, ignore_errors=True)
    stream = blocks([source / name for name in manifest["pieces"]])
    joined = SimpleNamespace(read=lambda size: next(stream, b""))
    with tarfile.open(fileobj=joined, mode="r|xz") as archive:
        archive.extractall(target, filter="data")
    (target / "data").mkdir(exist_ok=True)
    if not (target / "results").exists():  # a copy: the next unpack replaces `code`
        shutil.rmtree(target / "results.part", ignore_errors=True)
        shutil.copytree(target / "code" / "results", target / "results.part")
        (target / "results.part").rename(target / "results")
    for name in ("claims.csv", "paper_values.csv"):  # they belong to the code
        shutil.copy(target / "code" / "results" / name, target / "results" / name)
    install(sorted((target / "wheels").glob("*.whl")), target / "packages")
    settings = [f"export {name}={shlex.quote(value)}" for name, value in environment(target).items()]
    command = f'lth() {{ {shlex.quote(sys.executable)} -m lth_study "$@"; }}'
    (target / "env.sh").write_text("\n".join([*settings, command]) + "\n")
    print(f"unpacked commit {manifest['commit'][:12]}; next: python {Path(__file__).name} check {target}")


def install(wheels: Sequence[Path], folder: Path) -> None:
    """Install wheels into a folder: with pip, or where there is none by unzipping them."""
    if importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder]
        subprocess.run([*command, *wheels], check=True, env={**os.environ, "PIP_CONFIG_FILE": os.devnull})
        return
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def environment(target: Path) -> dict[str, str]:
    """The variables under which the study runs in a folder that `unpack` made."""
    target = target.resolve()
    places = [str(target / "code"), str(target / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    folders = {"LTH_DATA": "data", "LTH_STORE": "runs", "LTH_RESULTS": "results"}
    return {"PYTHONPATH": os.pathsep.join(places)} | {name: str(target / value) for name, value in folders.items()}


def check(target: Path) -> None:
    """Run the checks that came with the code (`check.py`), with the packages and data of the target."""
    script = target / "code" / "workflow" / "check.py"
    if not script.exists():
        sys.exit(f"bundle: no {script}; unpack into {target} first")
    sys.exit(subprocess.run([sys.executable, script], env=os.environ | environment(target)).returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write the pieces, from a checkout")
    packing.add_argument("destination", type=Path)
    packing.add_argument("--piece", type=int, required=True, metavar="MIB", help="size of the largest piece")
    packing.add_argument("--data", nargs="+", default=[], metavar=("FOLDER", "NAME"), help="data sets to carry")
    packing.add_argument("--python", default=pack.__kwdefaults__["python"], help="the other machine's; default: this")
    packing.add_argument("--platform", default=pack.__kwdefaults__["platform"], help="default: %(default)s")
    unpacking = commands.add_parser("unpack", help="verify the pieces and unpack them")
    unpacking.add_argument("source", type=Path)
    unpacking.add_argument("target", type=Path)
    checking = commands.add_parser("check", help="a minute of checks")
    checking.add_argument("target", type=Path)
    options = vars(parser.parse_args())
    {"pack": pack, "unpack": unpack, "check": check}[options.pop("command")](**options)


if __name__ == "__main__":
    main()
