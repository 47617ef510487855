"""The same trials by ``study.run``, by Optuna alone with this loop, and by ``Trainer.hyperparameter_search``.

``study.run`` searches with TPE; the others are given the trials that it chose, so that all train the same
configurations. Each runs in a process of its own and prepares the data itself.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
import transformers

from benchmarks.accuracy import last_epoch
from benchmarks.contenders import collate, to_library
from benchmarks.grid import training_seconds
from benchmarks.serial import library_model, trainer_arguments
from study.data.dataset import open_encoded
from study.execution.preparation import prepare_models
from study.plan.plan import read_plan
from study.records import Epoch, Precision
from study.scoring import ACCURACY
from study.search.optuna_search import distributions, from_optuna
from study.settings import Settings
from study.space.space import Space
from study.storage import StudyFolder
from study.training.devices import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
# The arguments of the library that a trial may change.
TUNED = (
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSeconds:
    """Seconds of the ``whole`` process of a search, and of its ``trials``: from the first start to the last end."""

    whole: float
    trials: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The trials that one contender makes with ``threads`` threads, in ``folder``."""

    space: Space
    params: Sequence[Params]
    precision: Precision
    threads: int
    folder: Path

    def prepare(self) -> Path:
        """Encode the data for the space's only model; returns the folder."""
        model = self.space.fixed["model"]
        return prepare_models(self.space, [model], cache=self.folder)[model]

    def settings(self, trial: optuna.Trial) -> Settings:
        """The settings of a trial, suggested by Optuna axis by axis."""
        settings = dict(self.space.fixed)
        by_axis = distributions(self.space.searched)
        for axis in self.space.searched:
            distribution = by_axis[axis.name]
            if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                choice: Any = trial.suggest_categorical(axis.name, distribution.choices)
            elif isinstance(distribution, optuna.distributions.IntDistribution):
                choice = trial.suggest_int(
                    axis.name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
                )
            else:
                assert isinstance(distribution, optuna.distributions.FloatDistribution)
                choice = trial.suggest_float(
                    axis.name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
                )
            settings.update(from_optuna(axis, choice))
        return Settings.model_validate(settings)

    def optuna_options(self) -> Mapping[str, Any]:
        """Arguments of ``optuna.create_study`` for a study, in memory, in whose queue the trials are."""
        options: dict[str, Any] = {
            "storage": optuna.storages.InMemoryStorage(),
            "study_name": "the same trials",
            "sampler": optuna.samplers.TPESampler(seed=0),
            "pruner": optuna.pruners.NopPruner(),
            "load_if_exists": True,
        }
        study = optuna.create_study(direction="maximize", **options)
        for params in self.params:
            study.enqueue_trial(dict(params))
        return options


def study_run(options: Sequence[str], folder: Path) -> tuple[SearchSeconds, Sequence[Params]]:
    """Seconds of ``python -m study.run`` with ``options``, and the trials that it made."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "study.run", *options, "--set", "name=searched", "--storage", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - started
    study = StudyFolder(folder / "searched")
    plan = read_plan(study)
    assert plan is not None
    histories = [study.trajectory(trajectory.id).history() for trajectory in plan.trajectories]
    ends = [max(record.time for record in history if isinstance(record, Epoch)) for history in histories]
    starts = [end - training_seconds(history) for end, history in zip(ends, histories, strict=True)]
    storage = f"sqlite:///{study.optuna_file}"
    [name] = optuna.get_all_study_names(storage)
    params = [trial.params for trial in optuna.load_study(study_name=name, storage=storage).trials]
    return SearchSeconds(whole=whole, trials=max(ends) - min(starts)), params


def in_own_process(contender: Callable[[Job], float], job: Job) -> SearchSeconds:
    """Seconds of a contender's trials."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    started = time.perf_counter()
    process = context.Process(target=_serve, args=(contender, job, answer))
    process.start()
    process.join()
    whole = time.perf_counter() - started
    if process.exitcode != 0:
        raise RuntimeError(f"{contender.__name__} ended with {process.exitcode}")
    return SearchSeconds(whole=whole, trials=answer.get())


def _serve(contender: Callable[[Job], float], job: Job, answer: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(job.threads)
    answer.put(contender(job))


def optuna_alone(job: Job) -> float:
    """Seconds of ``optuna.Study.optimize`` with this loop as the objective, one trial after the other."""
    keep_freed_memory()
    encoded = job.prepare()

    def objective(trial: optuna.Trial) -> float:
        return last_epoch(job.settings(trial), encoded, job.precision).validation[ACCURACY.name]

    study = optuna.create_study(direction="maximize", **job.optuna_options())
    started = time.perf_counter()
    study.optimize(objective, n_trials=len(job.params))
    seconds = time.perf_counter() - started
    check_trials(study, job)
    return seconds


def library_search(job: Job) -> float:
    """Seconds of ``Trainer.hyperparameter_search`` with Optuna: evaluation after each epoch, nothing saved."""
    data = open_encoded(job.prepare())
    first = next(iter(job.space.cells()))
    trainer = transformers.Trainer(
        model_init=lambda: library_model(first, data),
        args=transformers.TrainingArguments(
            output_dir=str(job.folder / "trainer"), bf16=job.precision == "bfloat16", **trainer_arguments(first)
        ),
        train_dataset=to_library(data.train),
        eval_dataset=to_library(data.validation),
        data_collator=collate,
        compute_metrics=accuracy,
    )
    trainer.remove_callback(transformers.PrinterCallback)

    def hp_space(trial: optuna.Trial) -> dict[str, Any]:
        all_arguments = trainer_arguments(job.settings(trial))
        return {key: all_arguments[key] for key in TUNED}

    options = job.optuna_options()
    started = time.perf_counter()
    trainer.hyperparameter_search(
        hp_space=hp_space,
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        n_trials=len(job.params),
        direction="maximize",
        backend="optuna",
        **options,
    )
    seconds = time.perf_counter() - started
    check_trials(optuna.load_study(study_name=options["study_name"], storage=options["storage"]), job)
    return seconds


def accuracy(predicted: transformers.EvalPrediction) -> dict[str, float]:
    """The metrics that ``Trainer`` computes after an evaluation."""
    logits: Any = predicted.predictions
    return {"accuracy": float((logits.argmax(-1) == predicted.label_ids).mean())}


def check_trials(study: optuna.Study, job: Job) -> None:
    """Assert that the trials are those of the job, and complete."""
    assert [dict(trial.params) for trial in study.trials] == [dict(params) for params in job.params]
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
