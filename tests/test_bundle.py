"""Carrying the study to another machine: pieces, what is refused, and the checks there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import bundle
import check
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20


def wheel(pins: Sequence[str], folder: Path, python: str, platform: str) -> None:
    """In place of what an index has: one wheel with one module."""
    about = "carried-1.0.dist-info"
    files = {
        "carried.py": "WORTH = 42\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "".join(
            f"{name},,\n" for name in ("carried.py", *(f"{about}/{n}" for n in ("METADATA", "WHEEL", "RECORD")))
        ),
    }
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in pieces of 1 MiB, with data that does not compress."""
    folder = tmp_path_factory.mktemp("packed")
    images = folder / "from" / "tiny"
    images.mkdir(parents=True)
    (images / "images").write_bytes(os.urandom(3 * MIB))
    (images / ".cache").write_bytes(b"made again where it is needed")
    bundle.pack(folder / "pieces", piece=1, data=[str(folder / "from"), "tiny"], fetch=wheel)
    return folder


@pytest.fixture
def pieces(packed: Path, tmp_path: Path) -> Path:
    """A copy of its pieces, to damage."""
    (tmp_path / "pieces").mkdir()
    for file in (packed / "pieces").iterdir():
        (tmp_path / "pieces" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "pieces"


def python(script: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)


@pytest.mark.parametrize(("written", "sizes"), [([b"abcdefg", b"hi"], [3, 3, 3]), ([b"a", b"b", b"cd"], [3, 1])])
def test_pieces_joined_are_what_was_written(tmp_path: Path, written: list[bytes], sizes: list[int]) -> None:
    pieces = bundle.Pieces(tmp_path, 3)
    for content in written:
        pieces.write(content)
    if pieces.held:
        pieces.cut()
    files = sorted(tmp_path.glob("bundle.*"))
    assert [file.stat().st_size for file in files] == sizes
    assert b"".join(bundle.blocks(files)) == b"".join(written)
    assert pieces.sums == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_script_that_was_carried_unpacks_code_wheels_and_data(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "with a space"
    sizes = [file.stat().st_size for file in sorted((packed / "pieces").glob("bundle.tar.xz.*"))]
    assert set(sizes[:-1]) == {MIB}
    assert len(sizes) > 3
    assert 0 < sizes[-1] <= MIB
    done = python(packed / "pieces" / "bundle.py", "unpack", packed / "pieces", target)
    assert done.returncode == 0, done.stderr
    git = ["git", "-C", str(ROOT), "ls-tree", "-r", "-z", "--name-only", "HEAD"]
    committed = subprocess.run(git, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]
    assert {str(f.relative_to(target / "code")) for f in (target / "code").rglob("*") if f.is_file()} == set(committed)
    assert (target / "data/tiny/images").read_bytes() == (packed / "from/tiny/images").read_bytes()
    assert not (target / "data/tiny/.cache").exists()
    say = 'import os, carried; print(carried.WORTH, os.environ["LTH_DATA"], os.environ["LTH_STORE"])'
    shell = ["bash", "-c", f". '{target}/env.sh'; {sys.executable} -c '{say}'; echo $LTH_RESULTS; lth --version"]
    printed = subprocess.run(shell, check=True, capture_output=True, text=True).stdout.splitlines()
    assert printed == [f"42 {target}/data {target}/runs", f"{target}/results", "0.1.0"]


def test_unpacking_again_renews_the_code_and_keeps_what_was_made_there(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    bundle.unpack(packed / "pieces", target)
    (target / "code/Makefile").write_text("damaged")
    (target / "code/stale.py").write_text("of an earlier commit")
    for made in ("runs/training", "results/mine/records.csv"):
        (target / made).parent.mkdir(parents=True)
        (target / made).write_text("made there")
    bundle.unpack(packed / "pieces", target)
    assert (target / "code/Makefile").read_text() != "damaged"
    assert not (target / "code/stale.py").exists()
    assert (target / "runs/training").read_text() == (target / "results/mine/records.csv").read_text() == "made there"
    assert (target / "packages/carried.py").exists()


def test_without_pip_wheels_are_unzipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel([], tmp_path, "", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    bundle.install([tmp_path / "carried-1.0-py3-none-any.whl"], tmp_path / "packages")
    assert (tmp_path / "packages/carried.py").read_text() == "WORTH = 42\n"


def test_missing_and_altered_pieces_are_named_and_nothing_is_written(pieces: Path, tmp_path: Path) -> None:
    (pieces / "bundle.tar.xz.001").unlink()
    content = bytearray((pieces / "bundle.tar.xz.002").read_bytes())
    content[1000] ^= 1
    (pieces / "bundle.tar.xz.002").write_bytes(content)
    with pytest.raises(SystemExit) as refused:
        bundle.unpack(pieces, tmp_path / "target")
    message = str(refused.value)
    assert "bundle.tar.xz.001 is missing" in message
    assert "bundle.tar.xz.002 is altered" in message
    assert "bundle.tar.xz.000" not in message
    assert not (tmp_path / "target").exists()


def test_wheels_for_another_python_are_refused_before_anything_is_written(pieces: Path, tmp_path: Path) -> None:
    manifest = json.loads((pieces / "manifest.json").read_text())
    (pieces / "manifest.json").write_text(json.dumps(manifest | {"python": "3.99"}))
    with pytest.raises(SystemExit, match=r"Python 3\.99.*--python 3\.\d+"):
        bundle.unpack(pieces, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_folder_with_other_files_is_left_alone(pieces: Path, tmp_path: Path) -> None:
    (tmp_path / "home/code").mkdir(parents=True)
    (tmp_path / "home/code/mine.py").write_text("my own")
    with pytest.raises(SystemExit, match="holds other files"):
        bundle.unpack(pieces, tmp_path / "home")
    assert [file.name for file in (tmp_path / "home").rglob("*")] == ["code", "mine.py"]


def test_a_data_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="absent"):
        bundle.pack(tmp_path / "pieces", piece=1, data=[str(tmp_path), "absent"], fetch=wheel)
    assert not (tmp_path / "pieces").exists()


def test_what_is_imported_is_carried_and_torch_with_its_own_is_not() -> None:
    names = {Requirement(pin).name.lower().replace("_", "-") for pin in bundle.needed("3.12")}
    assert {"numpy", "pandas", "mlxtend", "matplotlib", "pydantic-core", "safetensors", "python-dateutil"} <= names
    assert not names & {"torch", "torchvision", "triton", "sympy", "networkx", "jinja2", "pytest", "colorama"}
    assert not [name for name in names if name.startswith("nvidia-")]


def test_pip_is_asked_for_wheels_of_the_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("subprocess.run", lambda command, check: asked.extend(map(str, command)))
    bundle.download(["numpy==2.4.6"], tmp_path, "3.12", "manylinux_2_28_x86_64")
    assert {"--only-binary=:all:", "--no-deps", "3.12", "numpy==2.4.6"} <= set(asked)
    platforms = [asked[place + 1] for place, word in enumerate(asked) if word == "--platform"]
    assert platforms[0] == "manylinux_2_28_x86_64"
    assert {"manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"} <= set(platforms)
    assert "manylinux_2_29_x86_64" not in platforms


def test_check_runs_what_came_with_the_code_with_the_folders_of_the_target(tmp_path: Path) -> None:
    script = tmp_path / "target/code/workflow/check.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        'import os, sys; print(os.environ["LTH_DATA"], os.environ["PYTHONPATH"]); sys.exit("one failure")'
    )
    done = python(ROOT / "workflow/bundle.py", "check", tmp_path / "target", PYTHONPATH="/torch")
    target = (tmp_path / "target").resolve()
    assert done.stdout.split() == [f"{target}/data", f"{target}/code:{target}/packages:/torch"]
    assert (done.returncode, done.stderr.strip()) == (1, "one failure")


def test_check_passes_on_this_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two of the six networks: others take most of a minute."""
    monkeypatch.setattr(check, "NETWORKS", ("lenet_300_100", "squeezenet1_0"))
    monkeypatch.setenv("LTH_DEVICE", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(check, "on_a_gpu", lambda: False)
    check.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ready"
    for network in check.NETWORKS:
        assert any(line.startswith(f"{network}: ") and "test accuracy" in line for line in lines)
    assert not (tmp_path / "store").exists()


def test_check_names_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "NETWORKS", ("lenet_301",))
    with pytest.raises(SystemExit) as failed:
        check.main()
    (line,) = str(failed.value).splitlines()
    assert line.startswith("lenet_301: ")
    assert "unknown network" in line
    assert "ready" not in capsys.readouterr().out


def test_data_is_compared_with_the_records(real_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.fingerprints("mnist") == "7e6495a5661cff01 as recorded"
    study = tmp_path / "records" / "study"
    study.mkdir(parents=True)
    (study / "config.json").write_text('{"network": "lenet_300_100", "dataset": "mnist", "image_size": null}')
    (study / "provenance.csv").write_text("level,data_fingerprint\n0,0123456789abcdef\n")
    monkeypatch.setattr(check, "RECORDS", tmp_path / "records")
    with pytest.raises(ValueError, match=r"7e6495a5661cff01 .*0123456789abcdef"):
        check.fingerprints("mnist")
    monkeypatch.setattr(check, "RECORDS", tmp_path / "none")
    assert check.fingerprints("mnist") == "7e6495a5661cff01 not recorded"


def test_a_loss_that_stays_high_is_a_failure() -> None:
    with pytest.raises(ValueError, match="after 1 updates; expected less than"):
        check.learns("float32", iterations=1, width=0.25, image_size=8)
