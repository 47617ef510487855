"""What training has cost: hours, examples and optimizer steps, on which devices."""

from __future__ import annotations

from analysis.results import Results
from analysis.wording import count, duration, join_words


def training_cost(results: Results) -> str:
    """What the study's trajectories have cost so far, in sentences; evaluation and start-up apart."""
    started = [run for run in results.runs if run.epochs]
    seconds = sum(run.train_seconds for run in started)
    examples = sum(run.epochs[-1].examples_seen for run in started)
    steps = sum(run.epochs[-1].optimizer_step for run in started)
    outcomes = [run.outcome for run in started if run.outcome is not None]
    devices = list(dict.fromkeys(outcome.device for outcome in outcomes if outcome.device))
    on_gpus = sum(run.train_seconds * run.outcome.gpus for run in started if run.outcome is not None)
    time = duration(seconds) + (f" on {join_words(devices)}" if devices else "")
    if on_gpus:
        time += f", which is {on_gpus / 3600:,.3g} GPU hours"
    shared = len(results.cells) - len(results.runs)
    saved = f" {count(shared, 'more cell')} cost nothing: other cells' runs include them." if shared else ""
    return (
        f"Training took {time} in {count(len(started), 'run')}: {examples:,} examples and {steps:,} optimizer steps, "
        f"evaluation and start-up apart.{saved}"
    )
