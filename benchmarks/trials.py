"""How long do the same trials take: of ``study.run``, of Optuna alone with this loop, of ``Trainer``'s own search?

``study.run`` searches with TPE; what it chose is put before the others, so that all train the same configurations.
Each is a process of its own that prepares the data for itself.
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
from benchmarks.contenders import collate, rows
from benchmarks.grid import inside_seconds
from benchmarks.serial import arguments, library_model
from study.data.dataset import EncodedData, open_encoded
from study.execution.preparation import prepare_models
from study.plan.plan import from_json
from study.records import Epoch, StudyFolder
from study.search.optuna_search import choices, part
from study.settings import Settings
from study.space.reader import Space
from study.training.devices import Precision, keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
# What of the library's arguments a trial may change.
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
class Took:
    """Seconds of a search: the ``whole`` process, and from the beginning of its first trial to the end of its last."""

    whole: float
    trials: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The trials that one contender makes with so many ``threads``, in ``folder``."""

    space: Space
    params: Sequence[Params]
    precision: Precision
    threads: int
    folder: Path

    def data(self) -> EncodedData:
        """The data of the space's one model, encoded here."""
        model = self.space.fixed["model"]
        return open_encoded(prepare_models(self.space, [model], cache=self.folder)[model])

    def settings(self, trial: optuna.Trial) -> Settings:
        """What a trial trains, asked of Optuna as a person would, axis by axis."""
        settings = dict(self.space.fixed)
        distributions = choices(self.space.searched)
        for axis in self.space.searched:
            told = distributions[axis.name]
            if isinstance(told, optuna.distributions.CategoricalDistribution):
                chosen: Any = trial.suggest_categorical(axis.name, told.choices)
            elif isinstance(told, optuna.distributions.IntDistribution):
                chosen = trial.suggest_int(axis.name, told.low, told.high, log=told.log, step=told.step)
            else:
                assert isinstance(told, optuna.distributions.FloatDistribution)
                chosen = trial.suggest_float(axis.name, told.low, told.high, log=told.log, step=told.step)
            settings.update(part(axis, chosen))
        return Settings.model_validate(settings)

    def optuna(self) -> Mapping[str, Any]:
        """How to make an Optuna study, in memory, in which the trials wait."""
        made: dict[str, Any] = {
            "storage": optuna.storages.InMemoryStorage(),
            "study_name": "the same",
            "sampler": optuna.samplers.TPESampler(seed=0),
            "pruner": optuna.pruners.NopPruner(),
            "load_if_exists": True,
        }
        study = optuna.create_study(direction="maximize", **made)
        for params in self.params:
            study.enqueue_trial(dict(params))
        return made


def study_run(options: Sequence[str], folder: Path) -> tuple[Took, Sequence[Params]]:
    """``python -m study.run`` with ``options``: all of it, and what its trials were."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "study.run", *options, "--set", "name=searched", "--storage", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - started
    study = StudyFolder(folder / "searched")
    plan = from_json(study.plan() or {})
    histories = [study.trajectory(trajectory.id).history() for trajectory in plan.trajectories]
    ends = [max(record.time for record in history if isinstance(record, Epoch)) for history in histories]
    begins = [end - inside_seconds(history) for end, history in zip(ends, histories, strict=True)]
    storage = f"sqlite:///{study.path / 'optuna.db'}"
    [name] = optuna.get_all_study_names(storage)
    params = [trial.params for trial in optuna.load_study(study_name=name, storage=storage).trials]
    return Took(whole=whole, trials=max(ends) - min(begins)), params


def in_a_process(contender: Callable[[Job], float], job: Job) -> Took:
    """Let a contender make its trials."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    started = time.perf_counter()
    process = context.Process(target=_serve, args=(contender, job, answer))
    process.start()
    process.join()
    whole = time.perf_counter() - started
    if process.exitcode != 0:
        raise RuntimeError(f"{contender.__name__} ended with {process.exitcode}")
    return Took(whole=whole, trials=answer.get())


def _serve(contender: Callable[[Job], float], job: Job, answer: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(job.threads)
    answer.put(contender(job))


def alone(job: Job) -> float:
    """Seconds of ``optuna.Study.optimize`` with this loop as the objective, one trial after the other."""
    keep_freed_memory()
    data = job.data()

    def objective(trial: optuna.Trial) -> float:
        return last_epoch(job.settings(trial), data, job.precision).validation_accuracy

    study = optuna.create_study(direction="maximize", **job.optuna())
    started = time.perf_counter()
    study.optimize(objective, n_trials=len(job.params))
    taken = time.perf_counter() - started
    check(study, job)
    return taken


def library(job: Job) -> float:
    """Seconds of ``Trainer.hyperparameter_search`` with Optuna: evaluation after each epoch, nothing saved."""
    data = job.data()
    first = Settings.model_validate(next(iter(job.space.cells())))
    trainer = transformers.Trainer(
        model_init=lambda: library_model(first, data),
        args=transformers.TrainingArguments(
            output_dir=str(job.folder / "trainer"), bf16=job.precision == "bfloat16", **arguments(first)
        ),
        train_dataset=rows(data.train),
        eval_dataset=rows(data.validation),
        data_collator=collate,
        compute_metrics=accuracy,
    )
    trainer.remove_callback(transformers.PrinterCallback)

    def hp_space(trial: optuna.Trial) -> dict[str, Any]:
        given = arguments(job.settings(trial))
        return {key: given[key] for key in TUNED}

    made = job.optuna()
    started = time.perf_counter()
    trainer.hyperparameter_search(
        hp_space=hp_space,
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        n_trials=len(job.params),
        direction="maximize",
        backend="optuna",
        **made,
    )
    taken = time.perf_counter() - started
    check(optuna.load_study(study_name=made["study_name"], storage=made["storage"]), job)
    return taken


def accuracy(predicted: transformers.EvalPrediction) -> dict[str, float]:
    """What ``Trainer`` calls after an evaluation."""
    logits: Any = predicted.predictions
    return {"accuracy": float((logits.argmax(-1) == predicted.label_ids).mean())}


def check(study: optuna.Study, job: Job) -> None:
    """The trials that were made are those that were to be made."""
    assert [dict(trial.params) for trial in study.trials] == [dict(params) for params in job.params]
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
