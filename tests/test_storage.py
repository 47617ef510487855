"""The files of a study: written whole or not at all, read back as they were, and never by two processes at once."""

import errno
import getpass
import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from other_process import other_process
from places import ROOT
from study_builder import ended, make_config, make_epoch, make_manifest, make_study

from study import __version__
from study.errors import StudyError
from study.records import FORMAT, Epoch, Interval, Record
from study.scoring import Predictions
from study.storage import (
    Storage,
    StudyFolder,
    TrajectoryFolder,
    read_json,
    replacing,
    write_bytes,
)


def interval(examples_seen: int, loss: float = 0.5) -> Interval:
    return Interval(
        examples_seen=examples_seen,
        optimizer_step=examples_seen // 16,
        train_loss=loss,
        gradient_norm=1.0,
        learning_rate=5e-5,
        time=1_800_000_000.0,
    )


def epoch(number: int, examples_seen: int, loss: float = 0.5) -> Epoch:
    return make_epoch(number, examples_seen=examples_seen, train_loss=loss, validation={"loss": loss, "accuracy": 0.75})


RECORDS: list[Record] = [interval(800), interval(1_600), epoch(1, 1_600), interval(2_400), epoch(2, 3_200)]


@pytest.fixture
def folder(tmp_path: Path) -> TrajectoryFolder:
    """A trajectory's folder with its config and nothing else."""
    (trajectory,) = make_study(tmp_path / "study", {"seed": [0]}).plan.trajectories
    folder = StudyFolder(tmp_path / "study").trajectory(trajectory.id)
    folder.write_config(make_config(trajectory))
    return folder


# Trajectories.


def test_a_folder_without_records_is_empty(folder: TrajectoryFolder) -> None:
    assert folder.history() == folder.epochs() == []
    assert folder.outcome() is None
    assert folder.predictions(1, "test") is None
    assert folder.read().history == []
    assert folder.read().outcome is None
    assert TrajectoryFolder(folder.path / "nowhere").config() is None


def test_appending_twice_is_appending_once(folder: TrajectoryFolder) -> None:
    folder.append(RECORDS[:3])
    before = (folder.path / "history.jsonl").read_bytes()
    folder.append(RECORDS[:3])
    assert (folder.path / "history.jsonl").read_bytes() == before
    folder.append(RECORDS)
    assert folder.history() == RECORDS
    assert folder.epochs() == [RECORDS[2], RECORDS[4]]


def test_a_record_is_never_replaced(folder: TrajectoryFolder) -> None:
    folder.append([interval(800, loss=0.5)])
    folder.append([interval(800, loss=0.6), epoch(1, 800)])
    assert folder.history() == [interval(800, loss=0.5), epoch(1, 800)]


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_an_incomplete_last_line_is_dropped_and_written_again(folder: TrajectoryFolder, kept: int) -> None:
    folder.append(RECORDS)
    path = folder.path / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    assert folder.history() == RECORDS[:-1]
    folder.append(RECORDS)
    assert folder.history() == RECORDS
    assert path.read_bytes() == b"".join(lines[:-1]) + lines[-1][:kept] + b"\n" + lines[-1]
    folder.append(RECORDS)
    assert path.read_bytes().endswith(b"\n" + lines[-1])


def test_an_incomplete_first_line_is_dropped(folder: TrajectoryFolder) -> None:
    (folder.path / "history.jsonl").write_bytes(b'{"examples_')
    assert folder.history() == []
    folder.append(RECORDS)
    assert folder.history() == RECORDS


@pytest.mark.parametrize("damage", [b"\0" * 80, b"nonsense", b"[1, 2]", b'{"kind": "interval"}', b"\xff\xfe", b"{}"])
def test_a_damaged_line_is_named_and_left_out(folder: TrajectoryFolder, damage: bytes) -> None:
    folder.append(RECORDS)
    path = folder.path / "history.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    with pytest.warns(UserWarning, match=r"history\.jsonl, line 2: damaged, so it is not used"):
        assert folder.history() == [RECORDS[0], *RECORDS[2:]]


def test_where_an_epoch_was_lost_the_history_ends_until_it_is_written_again(folder: TrajectoryFolder) -> None:
    records = [*RECORDS, epoch(3, 4_800)]
    folder.append(records)
    path = folder.path / "history.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epoch": 2', b'"ep\0ch": 2'))
    with pytest.warns(UserWarning, match="history.jsonl") as caught:
        assert folder.history() == RECORDS[:-1]
    assert [str(one.message).split("history.jsonl")[1] for one in caught] == [
        ", line 5: damaged, so it is not used",
        " lacks epoch 2, so later ones are not used",
    ]
    with pytest.warns(UserWarning, match="line 5"):
        folder.append(records)
    with pytest.warns(UserWarning, match="line 5"):
        assert folder.history() == records


def test_a_damaged_outcome_is_named_and_taken_for_none(folder: TrajectoryFolder) -> None:
    for damage in (b"", b"{", b"[]", b'{"status": "complete"}', b'{"halved_at": [], "unheard_of": 1}'):
        (folder.path / "outcome.json").write_bytes(damage)
        with pytest.warns(UserWarning, match=r"outcome\.json: damaged, so the trajectory resumes"):
            assert folder.outcome() is None


def test_what_is_written_after_the_history_was_renewed_goes_to_the_old_file(folder: TrajectoryFolder) -> None:
    """As a write that is on its way while another process takes over, from where the history's end was."""
    folder.append(RECORDS[:2])
    with (folder.path / "history.jsonl").open("r+b") as late:
        late.seek(0, os.SEEK_END)
        before = folder.history()
        folder.renew_history()
        assert folder.history() == before
        folder.append(RECORDS[2:])
        late.write(b"x" * 50)
    assert folder.history() == RECORDS


def test_a_trajectory_without_a_history_has_a_new_empty_one_then(folder: TrajectoryFolder) -> None:
    folder.renew_history()
    assert (folder.path / "history.jsonl").read_bytes() == b""
    assert folder.history() == []


def test_nothing_is_appended_by_one_that_lost_the_lock(folder: TrajectoryFolder) -> None:
    def lost() -> None:
        raise StudyError("lost")

    folder.append(RECORDS[:2], check=lambda: None)
    with pytest.raises(StudyError, match="lost"):
        folder.append(RECORDS, check=lost)
    assert folder.history() == RECORDS[:2]


@pytest.mark.parametrize("times", [1, 5, 10**9])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """NFS keeps nothing of a file that another machine replaces."""
    path, read, calls = tmp_path / "values.json", Path.read_bytes, 0
    path.write_text('{"a": 1}')

    def read_stale(self: Path) -> bytes:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_stale)
    if times < 100:
        assert read_json(path) == {"a": 1}
    else:
        with pytest.raises(OSError, match="Stale file handle"):
            read_json(path)


APPEND = """
import sys, time
sys.path.insert(0, "tests/helpers")
from pathlib import Path
from study.records import Interval
from study.storage import TrajectoryFolder
folder, first = TrajectoryFolder(Path(sys.argv[1])), int(sys.argv[2])
for number in range(first, first + 100):
    folder.append([Interval(examples_seen=number, optimizer_step=1, train_loss=0.5, gradient_norm=1.0,
        learning_rate=1e-5, time=0.0)])
"""


def test_of_two_processes_that_append_to_one_history_neither_loses_a_record(folder: TrajectoryFolder) -> None:
    """As a worker that was taken for lost and the one that took its place."""
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, str(folder.path), str(n)], cwd=ROOT) for n in (0, 100)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert [record.examples_seen for record in folder.history()] == list(range(200))


WRITE = """
import sys
from pathlib import Path
from study.storage import write_json
for number in range(300):
    write_json(Path(sys.argv[1]), {"number": number, "text": "x" * 5_000})
"""


def test_of_two_processes_that_write_one_file_readers_see_one_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(path)], cwd=ROOT) for _ in range(2)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        values = read_json(path)
        if values is not None:
            seen += 1
            assert len(values["text"]) == 5_000
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen > 10
    assert [item.name for item in tmp_path.iterdir()] == ["outcome.json"]


def test_nan_is_kept(folder: TrajectoryFolder) -> None:
    folder.append([epoch(1, 800, loss=math.nan)])
    assert math.isnan(folder.epochs()[0].validation["loss"])


def test_predictions_are_read_back_as_they_were_written(folder: TrajectoryFolder) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 3)).astype(np.float32)
    logits[7, 1] = np.nan
    written = Predictions(example_id=rng.permutation(50), label=rng.integers(0, 3, 50), logits=logits)
    folder.write_predictions(3, "test", written)
    first = folder.predictions_path(3, "test").read_bytes()
    read = folder.predictions(3, "test")
    assert read is not None
    assert np.array_equal(read.example_id, written.example_id)
    assert np.array_equal(read.label, written.label)
    assert read.logits.dtype == np.float32
    assert read.logits.tobytes() == logits.tobytes()
    assert folder.predictions(3, "validation") is None
    assert folder.prediction_files() == [folder.predictions_path(3, "test")]
    folder.write_predictions(3, "test", written)
    assert folder.predictions_path(3, "test").read_bytes() == first


def test_an_outcome_is_read_back_and_can_be_forgotten(folder: TrajectoryFolder) -> None:
    outcome = ended("stopped early", epochs=3, train_seconds=1.5, micro_batch_size=8, halved_at=(0, 17))
    folder.write_outcome(outcome)
    assert folder.outcome() == folder.read().outcome == outcome
    folder.forget_outcome()
    folder.forget_outcome()
    assert folder.outcome() is None


def test_a_config_is_read_back(folder: TrajectoryFolder) -> None:
    config = folder.config()
    assert config is not None
    assert config.settings == make_study(folder.path / "other", {"seed": [0]}).plan.trajectories[0].settings
    assert folder.study.trajectory(folder.id) == folder


# Studies and their formats.


def test_a_folder_is_a_study_once_it_has_a_manifest(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    assert study.manifest() is None
    assert study.plan() is None
    study.write_space("name: s\n")
    study.write_plan({"cells": []})
    exists_without_manifest = study.exists
    study.write_manifest(make_manifest(name="s", precision="float32", tracking="http://host:5000"))
    assert (exists_without_manifest, study.exists) == (False, True)
    assert study.manifest() == make_manifest(name="s", precision="float32", tracking="http://host:5000")
    assert study.plan() == {"cells": []}
    assert (study.path / "space.yaml").read_text() == "name: s\n"
    assert study.trajectory("abc").path == study.path / "trajectories" / "abc"


@pytest.mark.parametrize("text", ['{"format": 2}', '{"format": 2, "name": "s"}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ValueError, match=r"study\.json is not a manifest"):
        StudyFolder(tmp_path).manifest()


def write_foreign_study(path: Path, **values: object) -> StudyFolder:
    """A study of another format: a manifest whose ``format`` is in ``values``, or is missing as in format 1."""
    path.mkdir(parents=True)
    manifest = {key: value for key, value in make_manifest().to_json().items() if key != "format"} | values
    (path / "study.json").write_text(json.dumps(manifest))
    return StudyFolder(path)


@pytest.mark.parametrize(
    ("values", "format_", "version"),
    [
        ({"versions": {"encoder-study": "0.3.1"}}, 1, "0.3.1"),
        ({"versions": {}}, 1, "an unknown version"),
        ({"versions": None}, 1, "an unknown version"),
        ({"versions": "0.1"}, 1, "an unknown version"),
        ({"format": 3, "versions": {"encoder-study": "7.0"}}, 3, "7.0"),
        ({"format": "two"}, "two", "an unknown version"),
    ],
)
def test_a_study_of_another_format_is_refused_in_one_sentence(
    tmp_path: Path, values: dict[str, object], format_: object, version: str
) -> None:
    """It names the format, the version that wrote it, and what to do."""
    study = write_foreign_study(tmp_path / "grown", **values)
    message = (
        f"the study in {study.path} has format {format_}, which encoder-study {version} wrote and reads; this is "
        f"version {__version__}, which reads format {FORMAT}: use that version, or train anew with study.run --fresh"
    )
    for read in (study.manifest, lambda: Storage(tmp_path).study("grown", fresh=False)):
        with pytest.raises(StudyError) as caught:
            read()
        assert str(caught.value) == message


def test_fresh_starts_beside_a_study_of_another_format(tmp_path: Path) -> None:
    foreign = write_foreign_study(tmp_path / "grown", format=3)
    before = (foreign.path / "study.json").read_bytes()
    study = Storage(tmp_path).study("grown", fresh=True)
    assert study.path == tmp_path / "grown.2"
    study.write_space("name: grown\n")
    study.write_manifest(make_manifest())
    assert Storage(tmp_path).study("grown", fresh=False) == study
    assert Storage(tmp_path).study("grown", fresh=True).path == tmp_path / "grown.3"
    assert (foreign.path / "study.json").read_bytes() == before


def test_the_newest_of_several_studies_is_found(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert storage.study("s", fresh=False).path == storage.study("s", fresh=True).path == tmp_path / "s"
    for number in range(1, 12):
        study = storage.study("s", fresh=True)
        assert study.name == ("s" if number == 1 else f"s.{number}")
        study.write_space("name: s\n")
        study.write_manifest(make_manifest())
        assert storage.study("s", fresh=False) == study


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"5", b"\xff"])
def test_a_manifest_that_is_not_a_json_object_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").write_bytes(content)
    with pytest.raises(StudyError, match=r"s/study\.json is not a JSON object"):
        Storage(tmp_path).study("s", fresh=False)


# Storage.


def test_a_storage_is_a_path_or_a_file_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage.locate("studies").path == tmp_path / "studies"
    assert Storage.locate("my studies#1").path == tmp_path / "my studies#1"
    assert Storage.locate(f"file://{tmp_path}/my%20studies").path == tmp_path / "my studies"
    assert Storage.locate("studies").create().path.is_dir()
    assert list((tmp_path / "studies").iterdir()) == []


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("s3://bucket/studies", r"--storage s3://…: .* with locks, renames and appends, which a bucket lacks"),
        ("~nobody-of-this-name/x", "--storage ~nobody-of-this-name/x: not a folder"),
        ("http://[", r"--storage http://\[: not a folder"),
    ],
)
def test_a_storage_that_is_not_a_folder_is_refused(storage: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Storage.locate(storage)


def test_a_storage_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"--storage .*file/studies: cannot be written to \(Not a directory\)"):
        Storage(tmp_path / "file" / "studies").create()


# Writing as a whole.


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_bytes(path, b"one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_bytes(path, b"two" * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"one"
    assert [item.name for item in tmp_path.iterdir()] == ["values.json"]
    write_bytes(path, b"three")
    assert path.read_bytes() == b"three"


def replace_file(path: Path, content: str, *, error: BaseException | None = None) -> None:
    """Replace a file, or raise ``error`` once all of it is written."""
    with replacing(path) as part:
        part.write_text(content)
        if error is not None:
            raise error


def replace_folder(path: Path, name: str, *, first_wins: bool = False, error: BaseException | None = None) -> None:
    """Replace a folder by one that has a file ``name``, or raise ``error`` once that is written."""
    with replacing(path, first_wins=first_wins) as part:
        part.mkdir()
        (part / name).touch()
        if error is not None:
            raise error


@pytest.mark.parametrize("exists", [False, True])
def test_a_file_keeps_its_content_when_the_block_that_replaces_it_raises(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "file"
    if exists:
        path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        replace_file(path, "new", error=KeyboardInterrupt())
    assert [item.read_text() for item in tmp_path.iterdir()] == ["old"] * exists
    replace_file(path, "new")
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("file", "new")]


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_keeps_its_content_when_the_block_that_replaces_it_raises(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "folder"
    if exists:
        path.mkdir()
        (path / "old").touch()
    with pytest.raises(KeyboardInterrupt):
        replace_folder(path, "new", error=KeyboardInterrupt())
    assert [item.name for item in tmp_path.rglob("*")] == ["folder", "old"] * exists
    replace_folder(path, "new")
    assert [item.name for item in tmp_path.rglob("*")] == ["folder", "new"]


def test_of_two_processes_that_write_one_folder_at_once_the_first_wins(tmp_path: Path) -> None:
    """Both write to a path of their own; the slower one gets an error, because the folder is there by then."""
    path = tmp_path / "folder"

    def replace_slowly() -> None:
        with replacing(path, first_wins=True) as part:
            part.mkdir()
            (part / "slow").touch()
            replace_folder(path, "fast", first_wins=True)

    with pytest.raises(OSError, match="not empty"):
        replace_slowly()
    assert [item.name for item in tmp_path.rglob("*")] == ["folder", "fast"]


def test_the_rest_of_a_killed_write_is_removed_by_the_next(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from study.storage import replacing\n"
    code += "with replacing(Path(sys.argv[1])) as part:\n part.mkdir(); (part / 'new').touch(); os.kill(os.getpid(), 9)"
    path = tmp_path / "folder"
    path.mkdir()
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    left, _ = sorted(item.name for item in tmp_path.iterdir())
    assert re.fullmatch(rf"\.folder\.{re.escape(socket.gethostname())}\.\d+\.[0-9a-f]{{8}}\.part", left)
    assert list(path.iterdir()) == []
    write_bytes(path / "file", b"")
    with replacing(path) as part:
        part.mkdir()
    assert [item.name for item in tmp_path.rglob("*")] == ["folder"]


def test_what_a_writer_on_another_machine_left_is_removed_after_a_day(tmp_path: Path) -> None:
    part = tmp_path / ".file.elsewhere.example.12.0123abcd.part"
    part.touch()
    write_bytes(tmp_path / "file", b"")
    assert part.exists()
    os.utime(part, (0, time.time() - 90_000))
    write_bytes(tmp_path / "file", b"")
    assert not part.exists()


def test_a_folder_is_replaced_though_its_files_cannot_be_deleted(tmp_path: Path) -> None:
    """As on NFS, where a file that another process of the machine has open stays in the folder under another name."""
    path = tmp_path / "folder"
    replace_folder(path, "old")
    with (path / "old").open() as file:
        replace_folder(path, "new")
        assert file.read() == ""
    assert [item.name for item in tmp_path.rglob("*")] == ["folder", "new"]


@pytest.mark.parametrize(
    ("content", "values"), [(b'{"a": 1}', {"a": 1}), (b"{}", {}), (None, None)], ids=["an object", "empty", "missing"]
)
def test_a_missing_json_file_is_none(tmp_path: Path, content: bytes | None, values: dict[str, int] | None) -> None:
    path = tmp_path / "values.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json(path) == values
    assert read_json(path / "below") is None


# Locks.


RUNS = """
import sys
from pathlib import Path
from study.storage import StudyFolder
run = StudyFolder(Path(sys.argv[1])).run_lock()
run.__enter__()
"""


def test_a_study_that_is_run_by_another_process_is_refused_with_who_runs_it(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "study")
    with other_process(RUNS, study.path) as process:
        who = rf"by {getpass.getuser()} on {socket.gethostname()} \(process {process.pid}\) since 20\d\d-\d\d-\d\d "
        with (
            pytest.raises(StudyError, match=rf"the study in .*study is being run {who}.*; wait for it to end"),
            study.run_lock(),
        ):
            pass
        told: list[str] = []
        with pytest.raises(StudyError, match="wait for it to end"), study.run_lock(wait=2, tell=told.append):
            pass
        assert len(told) == 1
        assert re.search(rf"is being run {who}.*; waiting for up to 2 s \(--wait-lock\)", told[0])
        process.kill()
        process.wait()
        with study.run_lock(wait=5, tell=told.append):
            assert json.loads((study.path / ".lock").read_text())["pid"] == os.getpid()
        assert len(told) == 1


def test_only_the_run_that_asks_to_stop_is_stopped(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    first, second = folder.stop_file("first"), folder.stop_file("second")
    assert not first.requested()
    first.begin()
    number = first.path.stat().st_ino
    assert not first.requested()
    first.request()
    # In place: who has looked the file up before reads the new content.
    assert first.path.stat().st_ino == number
    assert first.requested()
    assert not second.requested()
    second.begin()
    assert not first.requested()
    assert not second.requested()
    second.end()
    second.end()
    assert not second.requested()


def test_a_study_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    study = StudyFolder(tmp_path / "file" / "study")
    with pytest.raises(StudyError, match=r"file/study cannot be written to \(Not a directory\)"), study.run_lock():
        pass
