"""Learning curves of every run as a figure: validation accuracy and training loss, by model and schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.answer import Figure, Line, Panel, not_shown, sentences
from analysis.diagnosis import Diagnosis, Finding
from analysis.evidence.conditions import group_by, schedule_keys
from analysis.evidence.names import Naming, name_or_model
from analysis.results import Results

# The findings whose onset is marked on a curve.
MARKED: tuple[Finding, ...] = ("collapsed", "collapsed and recovered")
# Groups of runs with panels of their own: more are no longer looked at one by one.
MOST_GROUPS = 12
# Runs of a panel whose names are written beside their curves.
MOST_LABELS = 6


def learning_curves(results: Results, diagnoses: Sequence[Diagnosis]) -> list[Figure]:
    """The curves of every run that has an evaluation, coloured by its finding; nothing where none has."""
    started = [diagnosis for diagnosis in diagnoses if diagnosis.run.epochs]
    if not started:
        return []
    keys = ["model", *schedule_keys(results.varying_listed)]
    groups = group_by(started, lambda diagnosis: diagnosis.run.settings, keys)
    shown = dict(list(groups.items())[:MOST_GROUPS])
    collapsed = any(diagnosis.finding in MARKED for group in shown.values() for diagnosis in group)
    x_range = (0.0, 1.03 * max(diagnosis.run.epochs[-1].examples_seen for diagnosis in started))
    panels = [
        _panel(results, name, group, x_range, _y_range(started, accuracy=accuracy), accuracy=accuracy)
        for accuracy in (True, False)
        for name, group in shown.items()
    ]
    caption = sentences(
        "Validation accuracy and training loss against examples seen. Each line is one run, coloured by its finding.",
        "A cross marks the onset of a collapse." if collapsed else "",
        "On the page, point at a line for the run's name.",
        not_shown(len(groups), MOST_GROUPS, "group"),
    )
    return [
        Figure(
            name="learning-curves",
            caption=caption,
            mark="onset of a collapse" if collapsed else "",
            panels=panels,
            most_panels=2 * MOST_GROUPS,
        )
    ]


def _panel(
    results: Results,
    title: str,
    group: Sequence[Diagnosis],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    accuracy: bool,
) -> Panel:
    naming = Naming.of([diagnosis.run.settings for diagnosis in group], results.varying_trained)
    return Panel(
        title=title,
        x_label="examples seen",
        y_label="validation accuracy" if accuracy else "training loss (nats)",
        lines=[_curve(diagnosis, naming, accuracy=accuracy) for diagnosis in group],
        levels=[(results.chance.accuracy if accuracy else results.chance.loss, "chance")],
        label_lines=1 < len(group) <= MOST_LABELS,
        percent_y=accuracy,
        x_range=x_range,
        y_range=y_range,
    )


def _curve(diagnosis: Diagnosis, naming: Naming, *, accuracy: bool) -> Line:
    run = diagnosis.run
    if accuracy:
        points = [(epoch.examples_seen, epoch.validation["accuracy"]) for epoch in run.epochs]
    else:
        points = [(record.examples_seen, record.train_loss) for record in run.intervals or run.epochs]
    examples, scores = zip(*points, strict=True)
    return Line(
        x=examples,
        y=scores,
        group=diagnosis.finding,
        name=name_or_model(naming, run.settings),
        thin=True,
        dots=accuracy or len(points) == 1,
        marks=_onset_marks(diagnosis, points, accuracy=accuracy),
    )


def _onset_marks(
    diagnosis: Diagnosis, points: Sequence[tuple[float, float]], *, accuracy: bool
) -> list[tuple[float, float]]:
    """The onset of a collapse on a curve: its first epoch at chance, or the last training loss before it."""
    if diagnosis.onset_epoch is None or diagnosis.onset_examples is None or diagnosis.finding not in MARKED:
        return []
    if accuracy:
        return [points[diagnosis.onset_epoch - 1]]
    return [point for point in points if point[0] <= diagnosis.onset_examples][-1:]


def _y_range(diagnoses: Sequence[Diagnosis], *, accuracy: bool) -> tuple[float, float]:
    """The range of the y-axis, the same for all panels of a quantity, so that they can be compared by eye."""
    runs = [diagnosis.run for diagnosis in diagnoses]
    if accuracy:
        values = [epoch.validation["accuracy"] for run in runs for epoch in run.epochs]
    else:
        values = [interval.train_loss for run in runs for interval in run.intervals]
        values += [epoch.train_loss for run in runs for epoch in run.epochs]
    values = sorted(filter(math.isfinite, values))
    low, high = min(values, default=0.0), max(values, default=1.0)
    if values and not accuracy:
        # A loss that diverged would flatten all other curves.
        high = min(high, 3 * values[len(values) // 2])
    margin = 0.05 * (high - low or 1)
    return low - margin, high + margin
