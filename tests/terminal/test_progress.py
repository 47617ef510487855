"""Progress: an event a line without a terminal, a live table on one, and an estimate of the remaining time."""

import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from study_builder import TRAIN, StudyBuilder, make_epoch, make_study

from study.plan.plan import Trajectory
from study.terminal.progress import Progress, duration


@pytest.fixture
def study(tmp_path: Path) -> StudyBuilder:
    """Three trajectories of four epochs."""
    return make_study(tmp_path / "study", {"seed": [0, 1, 2]})


def make_console(*, terminal: bool, width: int = 100, height: int = 40) -> tuple[Console, io.StringIO]:
    """A console and the text that it has printed."""
    text = io.StringIO()
    console = Console(
        file=text, force_terminal=terminal, width=width, height=height, color_system=None, legacy_windows=False
    )
    return console, text


def lines(text: io.StringIO) -> list[str]:
    """The lines without their times."""
    return [line.split("  ", 1)[1] for line in text.getvalue().splitlines()]


def test_every_event_is_a_line_where_there_is_no_terminal(study: StudyBuilder) -> None:
    console, text = make_console(terminal=False)
    first, second, third = (trajectory.id for trajectory in study.plan.trajectories)
    with Progress(study.plan.trajectories, console, started={second: 2}) as progress:
        progress.on_start(first)
        progress.on_epoch(first, make_epoch(1, train_loss=0.6, validation={"loss": 0.55, "accuracy": 0.7}))
        progress.on_failure(first, "RuntimeError: no luck")
        progress.on_start(first)
        progress.on_epoch(first, make_epoch(2, train_loss=0.5, validation={"loss": 0.65, "accuracy": 0.6}))
        progress.on_end(first, error=None)
        progress.on_start(second)
        progress.on_end(second, error="RuntimeError: out of memory")
        progress.on_start(third)
        progress.on_end(third, error=None, stopped=True)
    assert lines(text) == [
        "seed 0  started",
        "seed 0  epoch 1/4  train loss 0.600  validation loss 0.550  accuracy 0.700",
        "seed 0  failed (RuntimeError: no luck); it resumes from its newest checkpoint",
        "seed 0  resumed from its newest checkpoint",
        "seed 0  epoch 2/4  train loss 0.500  validation loss 0.650  accuracy 0.600",
        "seed 0  done, best validation accuracy 0.700  [1/3]",
        "seed 1  resumed after epoch 2",
        "seed 1  FAILED: RuntimeError: out of memory  [2/3]",
        "seed 2  started",
        "seed 2  pruned, no epoch completed  [3/3]",
    ]


def test_a_search_counts_what_is_done_without_a_total(study: StudyBuilder) -> None:
    console, text = make_console(terminal=False)
    first, second, _ = study.plan.trajectories
    with Progress([], console, searching=True) as progress:
        for trajectory in (first, second):
            progress.add_row(trajectory)
            progress.on_start(trajectory.id)
            progress.on_end(trajectory.id, error=None)
    assert [line.rpartition("  ")[2] for line in lines(text)] == ["started", "[1 done]", "started", "[2 done]"]


def rows(progress: Progress, text: io.StringIO) -> list[str]:
    """The lines of the table as it is now."""
    start = len(text.getvalue())
    progress.console.print(progress._render())
    return [line.rstrip() for line in text.getvalue()[start:].splitlines()]


def test_the_table_has_the_running_trajectories_first_and_the_remaining_time(study: StudyBuilder) -> None:
    console, text = make_console(terminal=True, width=140)
    first, second, third = study.plan.trajectories
    progress = Progress(study.plan.trajectories, console)
    title, _, *waiting = rows(progress, text)
    assert title == "0 of 3 trajectories · 0 s so far · first epochs running"
    assert [line.split()[2] for line in waiting] == ["waiting"] * 3
    progress.on_start(second.id)
    progress.on_epoch(second.id, make_epoch(1, train_loss=0.6, train_seconds=8.0))
    progress.on_start(first.id)
    progress.on_end(first.id, error="RuntimeError: " + 100 * "x")
    title, head, *body = rows(progress, text)
    assert title == "1 of 3 trajectories · 0 s so far · about 56 s left"
    assert " ".join(head.split()) == "trajectory state epoch train loss best val. acc. examples/s left"
    assert [line.split()[1] for line in body] == ["1", "0", "2"]  # running, failed, waiting
    assert body[0].split()[2:] == ["running", "1/4", "0.600", "0.800", "100", "24", "s"]
    assert body[1].split()[2] == "failed:"
    assert not [line for line in body if len(line) > 140]
    assert third.id in progress.rows


def test_a_table_higher_than_the_terminal_says_how_many_rows_are_missing(study: StudyBuilder) -> None:
    console, text = make_console(terminal=True, height=9)
    trajectories = [
        Trajectory(
            **{name: getattr(study.plan.trajectories[0], name) for name in Trajectory.__slots__} | {"id": str(i)}
        )
        for i in range(20)
    ]
    body = rows(Progress(trajectories, console), text)[2:]
    assert len(body) == 5
    assert body[-1].strip() == "16 more"


def test_the_estimate_divides_the_remaining_examples_by_the_rate_of_what_runs(study: StudyBuilder) -> None:
    console, _ = make_console(terminal=False)
    first, second, _ = study.plan.trajectories
    progress = Progress(study.plan.trajectories, console)
    assert progress.seconds_left() is None
    progress.on_start(first.id)
    assert progress.seconds_left() is None
    progress.on_epoch(first.id, make_epoch(1, train_seconds=8.0))
    rate = TRAIN / 8.0
    assert progress.seconds_left() == pytest.approx(11 * TRAIN / rate)
    progress.on_start(second.id)
    assert progress.seconds_left() == pytest.approx(11 * TRAIN / (2 * rate))
    for epoch in (2, 3, 4):
        progress.on_epoch(first.id, make_epoch(epoch, train_seconds=8.0))
    progress.on_end(first.id, error=None)
    assert progress.seconds_left() == pytest.approx(8 * TRAIN / rate)


def test_the_live_table_leaves_the_terminal_clean(study: StudyBuilder) -> None:
    console, text = make_console(terminal=True)
    with Progress(study.plan.trajectories, console) as progress:
        progress.on_start(study.plan.trajectories[0].id)
        time.sleep(0.6)
    assert "running" in text.getvalue()
    assert text.getvalue().rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45.4, "45 s"),
        (99, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5_940, "99 min"),
        (6_000, "1 h 40 min"),
        (12_000, "3 h 20 min"),
        (14_400, "4 h"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_duration_is_written_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text
