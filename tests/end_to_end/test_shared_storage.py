"""Storage that is late and whose locks are each machine's own: what is written is whole, and written by one process."""

import json
import os
import random
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from killed_process import run
from machines import CACHE_SECONDS, Machine, open_machine, running, stopped, without_storage
from ray_cluster import family, kill_processes, open_cluster, training_workers, wait_until
from study_process import Study, assert_mirrored_once, assert_same_records
from tiny_trajectory import REVIEWS, plan, result

from study.data.dataset import prepare
from study.storage import TrajectoryFolder

pytestmark = [pytest.mark.faults, pytest.mark.fuse]

# Seconds without a heartbeat after which the lock is taken over in these tests, and what a take-over may last longer.
STILL_SECONDS, MARGIN_SECONDS = 3.0, 20.0
SETUP = f"""
import os, sys, time
from pathlib import Path
from study import locks
from study.records import Interval
from study.storage import StudyFolder, TrajectoryFolder, read_json, write_json
locks.BEAT_SECONDS, locks.STILL_SECONDS, locks.LOOK_SECONDS = 0.3, {STILL_SECONDS}, 0.1

def interval(number):
    return Interval(examples_seen=number, optimizer_step=1, train_loss=0.5, gradient_norm=1.0, learning_rate=1e-5,
        time=time.time())

path = Path(sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that the machines share, as its server sees it."""
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


@pytest.fixture
def machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines that share ``folder``."""
    with open_machine("machine-1", folder) as first, open_machine("machine-2", folder) as second:
        yield first, second


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        raise AssertionError(process.stderr.read())
    return line.rstrip("\n")


def say(process: subprocess.Popen[str], line: str = "") -> None:
    """Give a process a line to read."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


# The file system.


LOOKS = """
import os, sys, fcntl
from pathlib import Path
path = Path(sys.argv[1]) / "file"
fcntl.flock(os.open(path.parent / "lock", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
file = None
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def test_the_file_system_of_these_tests_is_as_late_as_nfs(folder: Path, machines: tuple[Machine, Machine]) -> None:
    first, second = (machine.start(LOOKS, folder) for machine in machines)
    with running(first), running(second):

        def ask(process: subprocess.Popen[str], expression: str) -> str:
            say(process, expression)
            return read_line(process)

        assert ask(second, "path.exists()") == "False"  # and has the lock that the first one has, too
        assert ask(first, "path.write_text('one')") == "3"
        assert ask(second, "path.exists()") == "False"
        assert ask(second, "path.read_text()") == "No such file or directory"
        assert ask(second, "sorted(os.listdir(path.parent))") == "['file', 'lock']"
        assert ask(second, "path.read_text()") == "'one'"
        assert ask(first, "path.write_text('three')") == "5"
        assert ask(second, "path.stat().st_size") == "3"
        assert ask(second, "path.read_text()") == "'three'"
        assert ask(second, "(file := path.open('ab'))").startswith("<")
        assert ask(first, "path.open('ab').write(b'+')") == "1"
        assert ask(second, "file.write(b'-')") == "1"
        assert ask(second, "file.close()") == "None"
        assert (folder / "file").read_text() == "three-"
        assert ask(second, "(file := path.open('rb', buffering=0))").startswith("<")
        assert (
            ask(first, "[path.with_name('new').write_text('replaced'), path.with_name('new').replace(path)][0]") == "8"
        )
        assert ask(second, "file.read()") == "Stale file handle"
        assert ask(second, "path.read_text()") == "'replaced'"
        assert ask(first, "path.unlink()") == "None"
        assert ask(second, "path.exists()") == "True"
        assert ask(second, "path.read_text()") == "No such file or directory"


# Locks.


HOLDS = (
    SETUP
    + """
print("waits", flush=True)
with locks.hold(path / ".lock") as lease:
    print("holds", flush=True)
    for line in sys.stdin:
        lease.check()
        (path / "written").write_text(line)
        print("wrote", flush=True)
"""
)
LOCKS = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def wait_for_holder(process: subprocess.Popen[str]) -> float:
    """Wait until a process holds the lock; returns the seconds until then."""
    started = time.monotonic()
    assert read_line(process) == "holds"
    return time.monotonic() - started


def assert_waits(process: subprocess.Popen[str], *, seconds: float) -> None:
    """Assert that a process prints nothing for a while."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert not ready, read_line(process)


def test_a_lock_that_both_machines_grant_is_held_by_one_until_it_is_killed(
    folder: Path, machines: tuple[Machine, Machine]
) -> None:
    with running(machines[0].start(HOLDS, folder)) as first:
        assert [read_line(first), read_line(first)] == ["waits", "holds"]
        machines[1].run(LOCKS, folder / ".lock")
        with running(machines[1].start(HOLDS, folder)) as second:
            assert read_line(second) == "waits"
            assert_waits(second, seconds=2 * STILL_SECONDS)
            say(first, "first")
            assert read_line(first) == "wrote"
            os.kill(first.pid, signal.SIGKILL)
            seconds = wait_for_holder(second)
            print(f"taken over {seconds:.1f} s after a kill")
            assert STILL_SECONDS - 1 < seconds < STILL_SECONDS + MARGIN_SECONDS
            say(second, "second")
            assert read_line(second) == "wrote"
    assert (folder / "written").read_text() == "second\n"


@pytest.mark.parametrize("away", ["process", "machine"])
def test_one_that_was_away_while_another_took_over_writes_nothing_more(
    folder: Path, machines: tuple[Machine, Machine], away: str
) -> None:
    """A process that stood still, or one on a machine whose server was out of reach."""
    with running(machines[0].start(HOLDS, folder)) as holder:
        assert [read_line(holder), read_line(holder)] == ["waits", "holds"]
        with running(machines[1].start(HOLDS, folder)) as waiter:
            assert read_line(waiter) == "waits"
            with stopped(holder.pid if away == "process" else machines[0].daemon.pid):
                seconds = wait_for_holder(waiter)
                print(f"taken over {seconds:.1f} s after the {away} was away")
                assert seconds < STILL_SECONDS + MARGIN_SECONDS
                say(holder, "of the one that was away")
            assert holder.wait(timeout=30) == 1
            assert holder.stderr is not None
            assert re.search(r"LockLostError: .* is now held by .* on machine-\d", holder.stderr.read())
            assert not (folder / "written").exists()
            say(waiter, "of the other")
            assert read_line(waiter) == "wrote"
    assert (folder / "written").read_text() == "of the other\n"


def test_one_whose_storage_disappears_stops_and_another_takes_over(
    folder: Path, machines: tuple[Machine, Machine]
) -> None:
    with running(machines[0].start(HOLDS, folder)) as first:
        assert [read_line(first), read_line(first)] == ["waits", "holds"]
        with running(machines[1].start(HOLDS, folder)) as second:
            assert read_line(second) == "waits"
            machines[0].take_storage_away()
            say(first, "into an empty folder")
            assert first.wait(timeout=30) == 1
            assert first.stderr is not None
            assert "LockLostError: " in first.stderr.read()
            assert wait_for_holder(second) < STILL_SECONDS + MARGIN_SECONDS
    listing = ["ls", "-A", str(folder)]
    for wrapper in (machines[0].wrapper, without_storage(folder)):
        assert subprocess.run([*wrapper, *listing], capture_output=True, check=True).stdout == b""
    assert [path.name for path in folder.iterdir()] == [".lock"]


# Histories and other files.


APPENDS = (
    SETUP
    + """
folder = TrajectoryFolder(path)
print("waits", flush=True)
with folder.lock(give_up=lambda: False) as lease:
    print("holds", flush=True)
    folder.renew_history()
    first = 1 + max((record.examples_seen for record in folder.history()), default=0)
    for number in range(first, first + int(sys.argv[2])):
        folder.append([interval(number)], check=lease.check)
        lease.check()
        print(number, flush=True)
"""
)
READS = (
    SETUP
    + """
import threading, warnings
warnings.simplefilter("error")
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
count, problems = 0, []
print("reads", flush=True)
while not ended.is_set():
    count += 1
    try:
        TrajectoryFolder(path).read()
    except Exception as problem:
        problems.append(f"{type(problem).__name__}: {problem}"[-200:])
    time.sleep(0.02)
print(count, "reads,", len(problems), "broken:", *sorted(set(problems))[:5], flush=True)
"""
)
ROUNDS, RECORDS = 4, 20


def take_over_in_the_middle_of_a_write(folder: Path, machines: tuple[Machine, Machine], rng: random.Random) -> set[int]:
    """Let one machine lose its server while it appends, and another take over; returns what is durable since."""
    durable = set()
    with running(machines[0].start(APPENDS, folder, 10_000)) as first:
        assert [read_line(first), read_line(first)] == ["waits", "holds"]
        with running(machines[1].start(APPENDS, folder, RECORDS)) as second:
            assert read_line(second) == "waits"
            time.sleep(rng.uniform(0, 0.1))
            with machines[0].disconnected():
                assert read_line(second) == "holds"
                for _ in range(rng.randint(1, RECORDS // 2)):
                    durable.add(int(read_line(second)))
            output, errors = first.communicate(timeout=60)
            assert "LockLostError" in errors
            durable |= {int(line) for line in output.split()}
            output, errors = second.communicate(timeout=60)
            assert second.returncode == 0, errors
            return durable | {int(line) for line in output.split()}


def test_no_record_is_lost_where_one_takes_over_from_another_whose_write_arrives_late(folder: Path) -> None:
    """The late write goes to where the history's end was when its machine looked."""
    rng, durable = random.Random(0), set[int]()
    with (
        open_machine("machine-1", folder, write_delay=0.05) as first,
        open_machine("machine-2", folder, write_delay=0.01) as second,
        running(first.start(READS, folder)) as reader,
        running(second.start(READS, folder)) as other_reader,
    ):
        assert [read_line(each) for each in (reader, other_reader)] == ["reads"] * 2
        for _ in range(ROUNDS):
            durable |= take_over_in_the_middle_of_a_write(folder, (first, second), rng)
        problems = [each.communicate(timeout=60)[0] for each in (reader, other_reader)]
    read = [record.examples_seen for record in TrajectoryFolder(folder).history()]
    print(f"{len(durable)} records durable, {len(durable - set(read))} lost; {problems}")
    assert durable <= set(read)
    assert len(read) == len(set(read))
    assert [re.sub(r"^\d+ ", "", problem) for problem in problems] == ["reads, 0 broken:\n"] * 2


WRITES = (
    SETUP
    + """
for number in range(300):
    write_json(path / "outcome.json", {"writer": sys.argv[2], "number": number, "text": "x" * 5_000})
print("wrote", flush=True)
"""
)
READS_JSON = READS.replace(
    "TrajectoryFolder(path).read()",
    'assert len(read_json(path / "outcome.json")["text"]) == 5_000',
)


def test_two_machines_write_one_file_and_readers_of_both_see_one_or_the_other(folder: Path) -> None:
    (folder / "outcome.json").write_text(json.dumps({"text": "x" * 5_000}))
    with (
        open_machine("machine-1", folder, write_delay=0.002, rename_delay=0.002) as first,
        open_machine("machine-2", folder, write_delay=0.002, rename_delay=0.002) as second,
        running(first.start(READS_JSON, folder)) as reader,
        running(second.start(READS_JSON, folder)) as other_reader,
        running(first.start(WRITES, folder, 1)) as writer,
        running(second.start(WRITES, folder, 2)) as other_writer,
    ):
        assert [read_line(each) for each in (writer, other_writer)] == ["wrote"] * 2
        problems = [each.communicate(timeout=60)[0] for each in (reader, other_reader)]
    print(problems)
    assert [re.sub(r"^(reads\n)?\d+ ", "", problem) for problem in problems] == ["reads, 0 broken:\n"] * 2
    assert [item.name for item in folder.iterdir()] == ["outcome.json"]


# What is seen by whom, and when.


OBEYS = (
    SETUP
    + """
from study_builder import ended, make_epoch, make_predictions
study = StudyFolder(path)
trajectory = study.trajectory("t")
print("obeys", flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""
)


def ask(process: subprocess.Popen[str], expression: str) -> str:
    """What a process answers that obeys."""
    say(process, expression)
    return read_line(process)


def seconds_until(process: subprocess.Popen[str], expression: str, answer: str) -> float:
    """The seconds until a process that obeys gives an answer."""
    started = time.monotonic()
    while (given := ask(process, expression)) != answer:
        assert time.monotonic() - started < CACHE_SECONDS + MARGIN_SECONDS, given
        time.sleep(0.05)
    return time.monotonic() - started


def test_a_request_to_stop_is_seen_at_once_and_never_by_a_later_run(
    folder: Path, machines: tuple[Machine, Machine]
) -> None:
    with running(machines[0].start(OBEYS, folder)) as driver, running(machines[1].start(OBEYS, folder)) as worker:
        assert [read_line(driver), read_line(worker)] == ["obeys"] * 2
        for run in ("first", "second", "third"):
            # The worker has looked before the run began, and has the earlier run's file in its cache.
            assert ask(worker, f"study.stop_file('{run}').requested()") == "False"
            ask(driver, f"study.stop_file('{run}').begin()")
            for _ in range(5):
                assert ask(worker, f"study.stop_file('{run}').requested()") == "False"
            ask(driver, f"study.stop_file('{run}').request()")
            seconds = seconds_until(worker, f"study.stop_file('{run}').requested()", "True")
            print(f"stop seen after {seconds:.2f} s")
            assert seconds < MARGIN_SECONDS
            if run == "first":
                ask(driver, f"study.stop_file('{run}').end()")
                assert ask(worker, f"study.stop_file('{run}').requested()") == "False"


def test_who_looked_too_early_finds_what_was_written_since(folder: Path, machines: tuple[Machine, Machine]) -> None:
    with running(machines[0].start(OBEYS, folder)) as writer, running(machines[1].start(OBEYS, folder)) as reader:
        assert [read_line(writer), read_line(reader)] == ["obeys"] * 2
        ask(writer, "trajectory.path.mkdir(parents=True)")
        missing = {"trajectory.read().outcome": "None", "len(trajectory.history())": "0", "study.exists": "False"}
        missing |= {"trajectory.predictions(1, 'test')": "None", "trajectory.config()": "None"}
        assert {look: ask(reader, look) for look in missing} == missing
        ask(writer, "trajectory.append([make_epoch(1, examples_seen=800, train_loss=0.5, validation={'loss': 0.5})])")
        ask(writer, "trajectory.write_predictions(1, 'test', make_predictions(10, 0))")
        ask(writer, "trajectory.write_outcome(ended('epochs exhausted', epochs=1))")
        ask(writer, "write_json(study.path / 'study.json', {})")
        assert ask(reader, "(trajectory.path / 'outcome.json').exists()") == "False"  # as the cache has it
        looks = {
            "trajectory.read().outcome.epochs": "1",
            "len(trajectory.history())": "1",
            "trajectory.predictions(1, 'test') is not None": "True",
            "study.exists": "True",
        }
        for look, answer in looks.items():
            seconds = seconds_until(reader, look, answer)
            print(f"{look} seen after {seconds:.2f} s")
            assert seconds < MARGIN_SECONDS


# A whole trajectory.


TRAINS = (
    SETUP
    + """
from study.training.trajectory import train_trajectory
print("waits", flush=True)
train_trajectory(TrajectoryFolder(path), cpu_threads=1, observe=lambda record: print(record.kind, flush=True))
"""
)


def test_a_trajectory_that_moves_to_another_machine_ends_as_an_undisturbed_one(
    folder: Path, tmp_path: Path, machines: tuple[Machine, Machine]
) -> None:
    encoded = prepare(
        REVIEWS, identity={"examples": 150}, model="tiny-bert", model_identity="", cache=folder / ".encoded"
    )
    moved, undisturbed = (
        plan(path / "t", {"tiny-bert": encoded}, "tiny-bert", every_minutes=1e-9) for path in (folder, tmp_path)
    )
    with running(machines[1].start(OBEYS, folder)) as reader:
        assert read_line(reader) == "obeys"
        # The second machine remembers that nothing was there, then what was there at some time.
        early = "[list(map(os.path.exists, each.record_files)) for each in [TrajectoryFolder(path / 't')]]"
        assert ask(reader, early) == "[[True, False, False, False]]"
        with running(machines[0].start(TRAINS, moved)) as first:
            lines = [read_line(first) for _ in range(5)]
            assert lines[0] == "waits"
            assert "epoch" in lines
            ask(reader, "TrajectoryFolder(path / 't').read()")
            first.kill()
            first.wait()
    with running(machines[1].start(TRAINS, moved)) as second:
        started = time.monotonic()
        assert read_line(second) == "waits"
        assert read_line(second) in ("interval", "epoch")
        print(f"resumed after {time.monotonic() - started:.1f} s")
        _, errors = second.communicate(timeout=120)
        assert second.returncode == 0, errors
    assert run(undisturbed) == 0
    assert result(moved) == result(undisturbed)


def make_study(folder: Path) -> Study:
    """Two trajectories, a few seconds of training each, with a checkpoint after every interval."""
    study = Study(folder)
    study.space["fixed"]["epochs"] = 20
    study.space["run"] = {"checkpoint_every_minutes": 1e-6, "max_failures": 0, "gpu": 0}
    return study


@pytest.mark.slow
def test_a_study_on_two_machines_of_which_one_is_lost_ends_as_an_undisturbed_one(
    tmp_path: Path, free_port: int
) -> None:
    """The lock of the lost one is held for a minute more; the driver and MLflow's store are on the other."""
    undisturbed, study = make_study(tmp_path / "undisturbed"), make_study(tmp_path / "shared")
    undisturbed.run()
    folder = study.folder / "studies"
    folder.mkdir(parents=True)
    with (
        open_machine("machine-1", folder) as first,
        open_machine("machine-2", folder) as second,
        open_cluster(tmp_path, free_port) as nodes,
    ):
        nodes.start_node("--num-cpus=1", wrapper=first.wrapper)
        lost = nodes.start_node("--num-cpus=1", wrapper=second.wrapper)
        process = study.start("--address", nodes.address, wrapper=first.wrapper)
        with running(process):
            wait_until(
                lambda: training_workers(lost.pid) and sum(map(bool, study.histories().values())) == 2, seconds=300
            )
            kill_processes(family(lost.pid))
            output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
    assert_same_records(study, undisturbed)
    assert_mirrored_once(study)
