"""Checkpoints: a whole one is on disk at every moment, and never more than two."""

import contextlib
import errno
import hashlib
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loop_builder import FAMILIES, assert_same_bits, make_data, make_loop, make_settings, weights

from study.storage import TrajectoryFolder
from study.training.checkpoint import CheckpointTimer, load_newest, save
from study.training.devices import random_state
from study.training.loop import FineTuning, LoopState

INCOMPLETE = "is incomplete: training resumes from the checkpoint before it"
Event = Callable[[str, tuple[Any, ...]], None]

_LISTENERS: list[Event] = []
sys.addaudithook(lambda event, arguments: [listen(event, arguments) for listen in list(_LISTENERS)] and None)


@pytest.fixture
def listen() -> Iterator[Callable[[Event], None]]:
    """Calls a function before each access of the interpreter to a file, until the test ends."""
    yield _LISTENERS.append
    _LISTENERS.clear()


def make_state(step: int, *, epochs: int = 0, size: int = 50) -> LoopState:
    """A made-up state, different for each step."""
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "model.weight": torch.randn(size, 4, generator=generator),
        "optimizer.weight.step": torch.tensor(float(step)),
        "random.cpu": generator.get_state(),
    }
    return LoopState(tensors=tensors, values={"step": step, "epochs": [{"loss": 0.1 * step}] * epochs})


def assert_same(got: LoopState | None, expected: LoopState) -> None:
    assert got is not None
    assert got.values == expected.values
    assert_same_bits(dict(got.tensors), dict(expected.tensors))


def on_disk(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def trained_and_new(family: str) -> tuple[FineTuning, FineTuning]:
    """A loop in the middle of its second epoch, and an equal one at its start; every part of a state is in use."""
    data = make_data(family, train=40)
    settings = make_settings(model=family, dropout=0.1, batch_size=8, micro_batch_size=3, log_every_examples=16)
    loop = make_loop(data, settings)
    run = loop.run()
    for _ in range(5):
        next(run)
    loop.halved_at.append(3)
    return loop, make_loop(data, settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loop_is_saved_and_loaded_to_the_bit(tmp_path: Path, family: str) -> None:
    loop, resumed = trained_and_new(family)
    save(tmp_path, loop.state())
    generators = {name: state.clone() for name, state in random_state(loop.device).items()}
    torch.rand(5)
    saved = load_newest(tmp_path)
    assert saved is not None
    resumed.load(saved)
    assert_same_bits(weights(resumed), weights(loop))
    assert_same_bits(random_state(resumed.device), generators)
    assert (resumed.step, resumed.examples_seen, resumed.micro_batch_size) == (7, 56, 3)
    assert (resumed.halved_at, resumed.stop_reason) == ([3], None)
    assert resumed.epochs == loop.epochs
    assert resumed.epoch_sums == loop.epoch_sums
    assert resumed.optimizer.state_dict()["state"].keys() == loop.optimizer.state_dict()["state"].keys()
    for index, moments in loop.optimizer.state_dict()["state"].items():
        assert_same_bits(resumed.optimizer.state_dict()["state"][index], moments)


def test_a_checkpoint_of_a_gpu_resumes_on_a_cpu(tmp_path: Path) -> None:
    """The state of a generator that this device does not have is ignored."""
    loop, resumed = trained_and_new("tiny-bert")
    state = loop.state()
    save(tmp_path, LoopState(tensors={**state.tensors, "random.cuda": torch.zeros(16).byte()}, values=state.values))
    saved = load_newest(tmp_path)
    assert saved is not None
    resumed.load(saved)
    assert_same_bits(weights(resumed), weights(loop))
    assert "random.cuda" not in resumed.state().tensors


def test_nan_and_infinities_are_saved_and_loaded(tmp_path: Path) -> None:
    state = LoopState(
        tensors={"model.a": torch.tensor([float("nan"), float("-inf")])}, values={"step": 1, "epochs": []}
    )
    state = LoopState(tensors=state.tensors, values={**state.values, "loss": float("inf"), "third": 1 / 3})
    save(tmp_path, state)
    got = load_newest(tmp_path)
    assert got is not None
    assert got.values == state.values
    assert torch.equal(got.tensors["model.a"].view(torch.int32), state.tensors["model.a"].view(torch.int32))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.zeros(0),
        torch.zeros(3, 0, 2),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([True, False]),
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(7, dtype=torch.int64),
        torch.tensor([1 / 3], dtype=torch.float64),
    ],
    ids=lambda tensor: f"{str(tensor.dtype).removeprefix('torch.')}-{'x'.join(map(str, tensor.shape))}",
)
def test_the_library_reads_every_kind_of_tensor_that_is_written(tmp_path: Path, tensor: torch.Tensor) -> None:
    tensors = {"a": tensor, "odd": torch.arange(3, dtype=torch.uint8), "b": torch.arange(4, dtype=torch.float64)}
    save(tmp_path, LoopState(tensors=tensors, values={"step": 0, "epochs": []}))
    got = load_newest(tmp_path)
    assert got is not None
    assert_same_bits(dict(got.tensors), tensors)
    assert {name: value.dtype for name, value in got.tensors.items()} == {n: t.dtype for n, t in tensors.items()}


def test_the_newest_checkpoint_is_loaded_and_the_one_before_it_kept(tmp_path: Path) -> None:
    trajectory = TrajectoryFolder(tmp_path)
    checkpoints = trajectory.checkpoints
    assert load_newest(checkpoints) is None
    checkpoints.mkdir()
    assert load_newest(checkpoints) is None
    for step, epochs in ((8, 0), (10, 0), (10, 1), (12, 1)):
        save(checkpoints, make_state(step, epochs=epochs))
        assert_same(load_newest(checkpoints), make_state(step, epochs=epochs))
    names = ["epochs-0001-step-000000010.safetensors", "epochs-0001-step-000000012.safetensors"]
    assert on_disk(checkpoints) == sorted([*names, *(f"{name}.sha256" for name in names)])
    trajectory.delete_checkpoints()
    assert not checkpoints.exists()
    trajectory.delete_checkpoints()


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    path = save(tmp_path, make_state(1))
    subprocess.run(["sha256sum", "--check", f"{path.name}.sha256"], cwd=tmp_path, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + b" ")
    done = subprocess.run(["sha256sum", "--check", f"{path.name}.sha256"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 1


def test_a_crash_at_any_moment_leaves_a_whole_checkpoint_and_never_more_than_two(
    tmp_path: Path, listen: Callable[[Event], None]
) -> None:
    """The folder is copied before each access to a file: the copy is what a process killed there would leave."""
    folder, copies = tmp_path / "checkpoints", tmp_path / "copies"
    states = [make_state(step) for step in range(1, 5)]
    snapshots: list[tuple[int, Path]] = []
    most = 0

    def copy(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal most
        if event not in ("open", "os.rename", "os.remove") or str(folder) not in str(arguments[0]):
            return
        _LISTENERS.clear()
        target = copies / str(len(snapshots))
        shutil.copytree(folder, target)
        snapshots.append((saved, target))
        most = max(most, sum(path.suffix in (".safetensors", ".part") for path in folder.glob("epochs-*")))
        listen(copy)

    for saved, state in enumerate(states):  # noqa: B007
        listen(copy)
        save(folder, state)
        _LISTENERS.clear()
    assert most == 2
    assert len(snapshots) > 20
    loaded = set()
    for index, target in snapshots:
        with pytest.warns(UserWarning, match=INCOMPLETE) if half_written(target) else contextlib.nullcontext():
            got = load_newest(target)
        if index == 0 and got is None:
            continue
        assert got is not None
        step = got.values["step"]
        assert step in (index, index + 1)
        assert_same(got, states[step - 1])
        loaded.add((index, step))
        assert not list(target.glob("*.part"))
    assert {(1, 1), (2, 2), (3, 3)} <= loaded


def half_written(folder: Path) -> bool:
    """Whether the newest checkpoint lacks its checksum."""
    newest = max(folder.glob("*.safetensors"), default=None)
    return newest is not None and not newest.with_name(f"{newest.name}.sha256").exists()


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_bit(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "truncated": ("", truncate),
    "altered": ("", flip_bit),
    "longer": ("", lambda content: content + b"\0"),
    "empty": ("", lambda _: b""),
    "checksum missing": (".sha256", lambda _: None),
    "checksum empty": (".sha256", lambda _: b""),
    "checksum truncated": (".sha256", lambda content: content[:20]),
    "checksum of another": (".sha256", lambda content: hashlib.sha256(b"").hexdigest().encode() + content[64:]),
    "checksum of nonsense": (".sha256", lambda _: b"\xff\xfe\0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_warned_of_and_the_one_before_it_used(tmp_path: Path, damage: str) -> None:
    save(tmp_path, make_state(1))
    path = save(tmp_path, make_state(2))
    suffix, change = DAMAGES[damage]
    damaged = path.with_name(path.name + suffix)
    content = change(damaged.read_bytes())
    if content is None:
        damaged.unlink()
    else:
        damaged.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{path.name} {INCOMPLETE}"):
        assert_same(load_newest(tmp_path), make_state(1))
    assert len(on_disk(tmp_path)) == 2
    save(tmp_path, make_state(2))
    assert_same(load_newest(tmp_path), make_state(2))


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@hypothesis.settings(max_examples=30, deadline=None)
def test_a_change_of_any_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    folder = tmp_path_factory.mktemp("altered")
    save(folder, make_state(1))
    path = save(folder, make_state(2))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=INCOMPLETE):
        assert_same(load_newest(folder), make_state(1))


def test_without_a_whole_checkpoint_training_starts_over(tmp_path: Path) -> None:
    for step in (1, 2):
        path = save(tmp_path, make_state(step))
        path.with_name(f"{path.name}.sha256").unlink()
    with pytest.warns(UserWarning, match=INCOMPLETE) as warnings:
        assert load_newest(tmp_path) is None
    assert len(warnings) == 2
    assert on_disk(tmp_path) == []


def test_nothing_is_unpickled(tmp_path: Path, listen: Callable[[Event], None]) -> None:
    """Neither a checkpoint nor a pickle under a checkpoint's name, with the right checksum."""
    unpickled: list[str] = []
    listen(lambda event, arguments: unpickled.append(str(arguments)) if event == "pickle.find_class" else None)
    pickle.loads(pickle.dumps(Path))
    assert len(unpickled) == 1
    save(tmp_path, make_state(1))
    assert load_newest(tmp_path) is not None
    path = tmp_path / "epochs-0000-step-000000002.safetensors"
    torch.save({"model.weight": torch.zeros(3)}, path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{checksum}  {path.name}\n")
    with pytest.raises(Exception, match=r"deserializing header"):
        load_newest(tmp_path)
    assert len(unpickled) == 1


def test_a_full_disk_leaves_the_earlier_checkpoint_untouched(tmp_path: Path) -> None:
    """The system refuses to let a file grow, as a full disk does; once there is space again, saving succeeds."""
    save(tmp_path, make_state(1))
    before = {name: (tmp_path / name).read_bytes() for name in on_disk(tmp_path)}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            save(tmp_path, make_state(2, size=5_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert {name: (tmp_path / name).read_bytes() for name in on_disk(tmp_path)} == before
    assert_same(load_newest(tmp_path), make_state(1))
    save(tmp_path, make_state(2, size=5_000))
    assert_same(load_newest(tmp_path), make_state(2, size=5_000))


def make_timer(*, every_minutes: float, passed: float, cost: float) -> CheckpointTimer:
    """A timer whose last checkpoint was written ``passed`` seconds ago and took ``cost`` seconds."""
    timer = CheckpointTimer(make_state(1), every_minutes=every_minutes)
    timer.saved -= passed
    timer.cost = cost
    return timer


@pytest.mark.parametrize(
    ("passed", "cost", "within_epoch", "at_epoch_end"),
    [
        # Long before the hour has passed, a checkpoint is due at an epoch's end only, and only where saving is cheap.
        (100.0, 0.0, False, True),
        (100.0, 1.9, False, True),
        (100.0, 2.5, False, False),
        (1_000.0, 2.5, False, True),
        # After an hour it is due whatever it costs.
        (3_601.0, 0.0, True, True),
        (3_601.0, 500.0, True, True),
        (3_500.0, 500.0, False, False),
    ],
)
def test_when_a_checkpoint_is_due(passed: float, cost: float, within_epoch: bool, at_epoch_end: bool) -> None:
    timer = make_timer(every_minutes=60, passed=passed, cost=cost)
    assert timer.due(epoch_ended=False) is within_epoch
    assert timer.due(epoch_ended=True) is at_epoch_end


@pytest.mark.parametrize(
    ("gigabytes", "passed", "due"), [(0.01, 1, False), (0.01, 2, True), (1.3, 60, False), (1.3, 250, True)]
)
def test_the_first_checkpoint_is_expected_to_cost_what_its_bytes_do(gigabytes: float, passed: float, due: bool) -> None:
    """At 300 MB/s: that of a base-sized model takes 4 s, which a trajectory of a minute does without."""
    state = LoopState(tensors={"w": torch.empty(int(1e9 * gigabytes), dtype=torch.uint8, device="meta")}, values={})
    timer = CheckpointTimer(state, every_minutes=60)
    timer.saved -= passed
    assert timer.due(epoch_ended=True) is due
    assert not timer.due(epoch_ended=False)


def test_saving_restarts_the_timer_and_measures_the_cost(tmp_path: Path) -> None:
    timer = make_timer(every_minutes=60, passed=4_000, cost=99.0)
    assert timer.due(epoch_ended=False)
    timer.save(tmp_path, make_state(1))
    assert not timer.due(epoch_ended=False)
    assert timer.cost != 99.0
    assert_same(load_newest(tmp_path), make_state(1))
