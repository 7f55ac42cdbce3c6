"""The run store: whole files or none, damage noticed, one process at a training."""

import builtins
import errno
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from studies import flip_a_bit, same_bits
from torch import Tensor

from lth_core.masks import Mask
from lth_study.files import Damaged, StoreError, read_json, read_state, write_atomic, write_json, write_state
from lth_study.presets import preset
from lth_study.store import Busy, StudyStore, Training, TrainingFolder, dense

SMOKE = preset("lenet_300_100", profile="smoke").setting
STATE = {"weight": torch.tensor([[1.0, -2.0], [0.0, 3.5]]), "bias": torch.tensor([0.25])}
MASK = Mask({"weight": torch.tensor([[True, False], [True, True]])})
RESULT = {"training": vars(Training(1, "imp", 0, 1, 0)), "metrics": {"test_accuracy": 97.5}, "diverged_at": None}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("failure", "raised", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StoreError, "place/file: No space left on device"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
    ids=["a full disk", "an interruption"],
)
@pytest.mark.parametrize(("module", "function"), [(os, "fsync"), (os, "replace"), (builtins, "open")])
def test_a_failed_write_leaves_the_old_file_and_no_other_and_a_full_disk_is_named(
    module: object,
    function: str,
    failure: BaseException,
    raised: type[BaseException],
    said: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    write_atomic(place / "file", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(module, function, Mock(side_effect=failure))
        with pytest.raises(raised, match=said):
            write_atomic(place / "file", b"new")
    assert (place / "file").read_bytes() == b"old"
    assert names(place) == {"file"}


def test_a_folder_that_cannot_be_made_is_a_store_error(place: Path):
    (place / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot make the folder"):
        write_atomic(place / "file" / "below" / "name", b"content")


@pytest.mark.parametrize(
    "state",
    [
        STATE,
        {"mask": torch.tensor([True, False]), "count": torch.tensor(3), "none": torch.zeros(0, 4)},
        {"special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-40]).view(2, 2).t()},
        {},
    ],
    ids=["floats", "other types and shapes", "special values, transposed", "empty"],
)
def test_a_state_comes_back_as_it_was(state: dict[str, Tensor], place: Path):
    write_state(place / "state.safetensors", state, {"iteration": "7"})
    tensors, about = read_state(place / "state.safetensors")
    assert about["iteration"] == "7"
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert tensors[name].contiguous().numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_a_state_truncated_anywhere_is_noticed(place: Path):
    file = place / "end.safetensors"
    write_state(file, STATE)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(StoreError, match=r"end\.safetensors"):
            read_state(file)


def test_any_flipped_bit_of_a_checkpoint_is_noticed_or_harmless(place: Path):
    folder = TrainingFolder(place)
    file = place / "checkpoint.safetensors"
    assert folder.load_checkpoint() is None
    folder.save_checkpoint(40, 1.5, STATE)
    iteration, seconds, state = folder.load_checkpoint() or pytest.fail("the checkpoint was not read")
    assert (iteration, seconds) == (40, 1.5)
    assert same_bits(dict(state), STATE)
    content = file.read_bytes()
    unnoticed, dropped = [], 0
    for position in range(len(content)):
        file.write_bytes(content)
        flip_a_bit(file, position, bit=position % 8)
        try:
            loaded = folder.load_checkpoint()
        except Exception as error:
            unnoticed.append((position, repr(error)))
            continue
        dropped += loaded is None and not file.exists()
        if loaded is not None and not (loaded[:2] == (40, 1.5) and same_bits(dict(loaded[2]), STATE)):
            unnoticed.append((position, str(loaded[:2])))
    assert unnoticed == []
    assert dropped > len(content) // 2


def test_a_lock_has_one_holder_in_a_process_and_is_free_after_an_error(place: Path):
    first, second = TrainingFolder(place), TrainingFolder(place)
    with first.locked(), pytest.raises(Busy), second.locked():
        pass
    with first.locked(), ThreadPoolExecutor() as pool, pytest.raises(Busy):
        pool.submit(second.locked().__enter__).result()
    with pytest.raises(ZeroDivisionError), first.locked():
        raise ZeroDivisionError
    with second.locked():
        pass


def test_a_finished_training_is_complete_and_has_no_checkpoint(place: Path):
    folder = TrainingFolder(place)
    folder.save_checkpoint(1, 0.1, STATE)
    assert not folder.complete
    folder.finish(RESULT, STATE, MASK)
    assert folder.complete
    assert folder.result() == RESULT
    assert same_bits(folder.load_end(), STATE)
    assert folder.load_mask() == MASK
    assert names(place) == {"result.json", "end.safetensors", "mask.safetensors"}


def test_a_discarded_training_is_not_complete_but_keeps_what_others_rewind_to(place: Path):
    folder = TrainingFolder(place)
    folder.save_state(5, STATE)
    folder.finish(RESULT, STATE, MASK)
    folder.save_checkpoint(1, 0.1, STATE)
    folder.discard()
    assert not folder.complete
    assert names(place) == {"iteration_5.safetensors"}


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_training_is_complete_only_when_everything_is_written(
    writes: int, place: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, done, replace = TrainingFolder(place), [], os.replace

    def fill_up(source: str, destination: Path) -> None:
        if len(done) == writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(destination)
        replace(source, destination)

    monkeypatch.setattr(os, "replace", fill_up)
    with pytest.raises(StoreError):
        folder.finish(RESULT, STATE, MASK)
    assert not folder.complete
    assert len(names(place)) == writes


def test_results_are_those_of_the_complete_trainings(place: Path):
    study = StudyStore(place, SMOKE)
    study.prepare()
    assert study.results() == {}
    expected = {}
    for training in (dense(1), Training(1, "imp", 20, 2, 1), Training(1, "imp", 20, 2, 0, again=True)):
        expected[training] = {**RESULT, "training": vars(training)}
        study.saves(training).finish(expected[training], STATE, MASK)
    study.saves(dense(2)).save_checkpoint(3, 0.1, STATE)
    assert study.results() == expected
    assert study.count([*expected, dense(2)]) == 3
    assert json.loads((study.folder / "config.json").read_text()) == json.loads(SMOKE.to_json())


def test_every_training_has_a_folder_of_its_own():
    trainings = [dense(1), dense(2)] + [
        Training(replicate, method, rewind, level, order, again)
        for replicate in (1, 11)
        for method in ("imp", "random_pruning", "random_reinit")
        for rewind in (0, 1, 10)
        for level in (1, 2, 12)
        for order in (0, 1)
        for again in (False, True)
    ]
    assert len({training.folder for training in trainings}) == len(trainings)
    assert len({str(training) for training in trainings}) == len(trainings)


def test_the_nearest_state_is_the_latest_one_not_after_the_iteration(place: Path):
    folder = TrainingFolder(place)
    assert folder.nearest_state(50) == (0, None)
    for iteration in (5, 20, 100):
        folder.save_state(iteration, {"weight": torch.tensor([float(iteration)])})
    for asked, expected in ((5, 5), (19, 5), (20, 20), (99, 20), (1_000, 100)):
        found, state = folder.nearest_state(asked)
        assert found == expected
        assert state is not None
        assert float(state["weight"]) == expected
    assert folder.nearest_state(4) == (0, None)
    flip_a_bit(place / "iteration_20.safetensors", -1)
    assert folder.nearest_state(30)[0] == 5
    (place / "iteration_5.safetensors").write_bytes(b"")
    assert folder.nearest_state(30) == (0, None)


def test_a_checkpoint_that_another_device_left_is_not_gone_on_from(place: Path):
    here, elsewhere = (TrainingFolder(place / "dense", maker) for maker in ("a Xeon, torch 2", "an EPYC, torch 2"))
    here.save_checkpoint(40, 1.5, STATE)
    assert (here.load_checkpoint() or (0,))[0] == 40
    assert elsewhere.load_checkpoint() is None
    assert names(place / "dense") == set()


def test_a_file_that_cannot_be_opened_now_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "end.safetensors"
    weight = torch.ones(2, 3)
    write_state(file, {"weight": weight})

    refused = OSError(errno.EMFILE, "Too many open files", str(file))
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", Mock(side_effect=refused))
        with pytest.raises(StoreError, match="Too many open files") as raised:
            read_state(file)
    assert not isinstance(raised.value, Damaged)
    assert torch.equal(read_state(file)[0]["weight"], weight)
    whole = file.read_bytes()
    turned = whole.replace(b"[2,3]", b"[3,2]")
    for harm in (lambda: file.write_bytes(turned), lambda: file.write_bytes(whole[:-1]), file.unlink):
        harm()
        with pytest.raises(Damaged):
            read_state(file)


@pytest.mark.parametrize("damage", [lambda text: text[:-9], lambda text: text.replace("120", "125"), lambda _: ""])
def test_a_damaged_description_of_a_study_is_written_again(damage: Callable[[str], str], place: Path):
    study = StudyStore(place, SMOKE)
    study.prepare()
    file, whole = study.folder / "config.json", SMOKE.to_json()
    file.write_text(damage(whole))
    study.prepare()
    assert file.read_text() == whole


def test_a_changed_byte_of_json_is_noticed_or_harmless(place: Path):
    file, content = place / "result.json", {"metrics": {"test_accuracy": 97.5}, "diverged_at": None, "é": [1, "a"]}
    write_json(file, content)
    whole, messages = file.read_bytes(), list[str]()
    for position in range(len(whole)):
        for bit in (0, 4):
            flip_a_bit(file, position, bit)
            try:
                assert read_json(file) == content, (position, bit)
            except Damaged as error:
                messages.append(str(error))
            file.write_bytes(whole)
    assert len(messages) > len(whole)
    assert [m for m in messages if str(file) not in m or "delete it and run again" not in m] == []


def test_json_from_before_there_was_a_checksum_is_read(place: Path):
    (place / "images.json").write_text('{"fingerprint": "0123"}\n')
    assert read_json(place / "images.json") == {"fingerprint": "0123"}
    (place / "images.json").write_text("[1]\n")
    with pytest.raises(Damaged, match="holds no JSON object; delete it and run again"):
        read_json(place / "images.json")
    with pytest.raises(Damaged, match=r"other\.json cannot be read"):
        read_json(place / "other.json")
    with pytest.raises(StoreError, match="cannot be read") as folder:
        read_json(place)
    assert not isinstance(folder.value, Damaged)


class PanicException(BaseException):
    """What pyo3 raises; its own class cannot be imported."""


@pytest.mark.parametrize(
    ("failure", "raised", "said"),
    [
        (PanicException("PyObject pointer is null"), MemoryError, r"end\.safetensors: PyObject pointer is null"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_a_panic_of_safetensors_is_too_little_memory_and_an_interruption_is_not(
    failure: BaseException, raised: type[BaseException], said: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("safetensors.torch.save", Mock(side_effect=failure))
    with pytest.raises(raised, match=said):
        write_state(place / "end.safetensors", STATE)
    assert names(place) == set()
