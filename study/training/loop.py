"""The fine-tuning loop: a generator of records.

It yields an :class:`~study.records.Interval` every so many examples and an :class:`EpochEnd` after every epoch; the
caller may save :meth:`FineTuning.state` at each of them and resume from there later, to the bit. The loop knows neither
files nor Ray. On the host an optimizer step only launches work: nothing in it waits for the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from study.data.dataset import Encoded, EncodedData
from study.models.classifier import Classifier
from study.records import Epoch, Interval, Precision, Split, StopReason
from study.scoring import METRICS, Predictions, Scores
from study.settings import Settings
from study.stopping import StoppingPolicy, best_epoch, decide
from study.training.accumulators import IntervalSums, TrainingSums
from study.training.batches import epoch_order, interval_ends
from study.training.capture import make_launcher
from study.training.devices import random_state, set_random_state
from study.training.evaluation import Evaluation, evaluate
from study.training.gradients import Gradients
from study.training.optimizer import (
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)
from study.training.schedules import LearningRate


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnd:
    """An epoch's record and its predictions on validation; where it is the best so far, on test too."""

    record: Epoch
    predictions: Mapping[Split, Predictions]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopState:
    """A loop's state: tensors by name, and JSON values."""

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]


class FineTuning:
    """Fine-tunes ``model`` on ``data`` until the last of ``policies`` has stopped.

    ``optimizer_steps`` is the length of the longest policy. The model must be on ``device``; its weights are changed in
    place. Dropout draws from torch's global generators, which the caller has seeded. Without ``capture`` a step is
    launched kernel by kernel on CUDA too, with the same results.
    """

    def __init__(
        self,
        model: Classifier,
        data: EncodedData,
        settings: Settings,
        *,
        policies: Sequence[StoppingPolicy],
        optimizer_steps: int,
        device: torch.device,
        precision: Precision,
        capture: bool = True,
    ) -> None:
        self.model = model
        self.settings = settings
        self.policies = tuple(policies)
        self.optimizer_steps = optimizer_steps
        self.device = device
        self.precision = precision
        self.data = data
        # An epoch's last step may be over a smaller batch, and a plan by optimizer steps may end within an epoch.
        self.steps_per_epoch = math.ceil(len(data.train) / settings.batch_size)
        self.planned_epochs = math.ceil(optimizer_steps / self.steps_per_epoch)
        assert max(policy.max_epochs or math.inf for policy in policies) == self.planned_epochs
        self.learning_rate = LearningRate.of(settings, optimizer_steps)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(model, settings, peak_learning_rate=self.learning_rate.peak, device=device)
        self.gradients = Gradients(model, data.train, settings, device=device, precision=precision, capture=capture)
        self.launcher = make_launcher(device, capture=capture and self.gradients.fixed_shapes)
        self.sums = IntervalSums(device)
        # The same as the parameters, without their gradients; and as they were before the last step of an interval.
        self.weights = [parameter.detach() for parameter in self.parameters]
        self.before = [torch.empty_like(weight) for weight in self.weights]
        self.step = 0
        self.examples_seen = 0
        self.epochs: list[Epoch] = []
        self.epoch_sums = TrainingSums()
        self.halved_at: list[int] = []
        self.stop_reason: StopReason | None = None

    @property
    def micro_batch_size(self) -> int:
        """Examples that pass through the model at a time."""
        return self.gradients.micro_batch_size

    def run(self) -> Iterator[Interval | EpochEnd]:
        """Train from where the state stands until :attr:`stop_reason` is set."""
        while self.stop_reason is None and not self._all_stopped():
            yield from self._epoch()
        if self.stop_reason is None:
            self.stop_reason = "epochs exhausted" if len(self.epochs) >= self.planned_epochs else "stopped early"

    def _all_stopped(self) -> bool:
        return all(decide(self.validation, policy).stopped for policy in self.policies)

    @property
    def validation(self) -> list[Scores]:
        """The validation scores after each epoch."""
        return [epoch.validation for epoch in self.epochs]

    def _epoch(self) -> Iterator[Interval | EpochEnd]:
        """The rest of the epoch that the state stands in, and its evaluation."""
        batch, epoch = self.settings.batch_size, len(self.epochs)
        first = epoch * self.steps_per_epoch
        last = min(first + self.steps_per_epoch, self.optimizer_steps)
        order = epoch_order(np.asarray(self.data.train.lengths), batch_size=batch, seed=self.settings.seed, epoch=epoch)
        self.gradients.set_order(order)
        windows = [range(start, min(start + batch, len(order))) for start in range(0, (last - first) * batch, batch)]
        closing = interval_ends([len(window) for window in windows], self.settings.log_every_examples)
        self.model.train()
        started = time.perf_counter()
        self.sums.reset()
        for index in range(self.step - first, last - first):
            # Checked before a step, not after an interval, so that a run that resumes from there checks it too.
            if not math.isfinite(self.epoch_sums.loss):
                break
            self._optimizer_step(windows[index], last_of_interval=index in closing)
            if index in closing:
                yield self._close_interval(started)
                started = time.perf_counter()
                self.sums.reset()
        if not math.isfinite(self.epoch_sums.loss):
            self.stop_reason = "non-finite"
        end = self._end_epoch()
        self.epochs.append(end.record)
        self.epoch_sums = TrainingSums()
        yield end

    def _optimizer_step(self, window: range, *, last_of_interval: bool) -> None:
        """One step over a window of the epoch's order; the weights before the last of an interval are kept."""
        # Before the gradient, while the device's memory is free.
        self.launcher.prepare("update", self._update, changes=self._changed_by_update)
        if last_of_interval:
            torch._foreach_copy_(self.before, self.weights)
        set_learning_rate(self.optimizer, self.learning_rate.factor(self.step))
        tried = self.micro_batch_size
        if not self.gradients.accumulate(window, self._update):
            self.launcher.run("update", self._update)
        if self.micro_batch_size < tried:
            self.halved_at.append(self.step)
        self.gradients.release()
        self.step += 1
        self.examples_seen += len(window)
        self.sums.count(len(window))

    def _update(self) -> None:
        """Clip the gradient, change the weights, and add the step to the interval's sums."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.settings.max_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.max_gradient_norm, norm)
        self.optimizer.step()
        self.sums.add(self.gradients.loss, norm)

    def _changed_by_update(self) -> list[torch.Tensor]:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        moments = [moment for moments in self.optimizer.state.values() for moment in moments.values()]
        return [*self.parameters, *gradients, *moments, self.sums.values]

    def _close_interval(self, started: float) -> Interval:
        """The record of the interval that ends with the newest step, and began at ``started`` (perf_counter)."""
        earlier = torch.nn.utils.get_total_norm(self.before)
        torch._foreach_sub_(self.before, self.weights)
        ratio = torch.nn.utils.get_total_norm(self.before) / earlier
        interval = self.sums.to_host(update_ratio=ratio, started=started)
        self.epoch_sums.merge(interval)
        return Interval(
            examples_seen=self.examples_seen,
            optimizer_step=self.step,
            train_loss=interval.loss / interval.examples,
            gradient_norm=interval.norm / interval.steps,
            learning_rate=self.learning_rate.at(self.step - 1),
            time=time.time(),
        )

    def _end_epoch(self) -> EpochEnd:
        """Evaluate on validation and, where this is the best epoch yet by any metric, on test."""
        validation = self._evaluate(self.data.validation)
        history = [*self.validation, validation.scores]
        best = {best_epoch(history, metric) for metric in METRICS}
        if self.stop_reason == "non-finite":
            return EpochEnd(record=self._record(validation, test=None), predictions={})
        if len(history) not in best:
            return EpochEnd(
                record=self._record(validation, test=None), predictions={"validation": validation.predictions}
            )
        test = self._evaluate(self.data.test)
        return EpochEnd(
            record=self._record(validation, test=test),
            predictions={"validation": validation.predictions, "test": test.predictions},
        )

    def _evaluate(self, split: Encoded) -> Evaluation:
        return evaluate(self.model, split, device=self.device, precision=self.precision)

    def _record(self, validation: Evaluation, *, test: Evaluation | None) -> Epoch:
        sums = self.epoch_sums
        return Epoch(
            epoch=len(self.epochs) + 1,
            examples_seen=self.examples_seen,
            optimizer_step=self.step,
            train_loss=sums.loss / sums.examples,
            validation=validation.scores,
            test=test.scores if test else None,
            gradient_norm_mean=sums.norm / sums.steps,
            gradient_norm_max=sums.norm_max,
            update_ratio=sums.update_ratio / sums.intervals,
            majority_share=validation.majority_share,
            entropy=validation.entropy,
            confidence=validation.confidence,
            logit_std=validation.logit_std,
            non_finite_steps=sums.non_finite,
            learning_rate=self.learning_rate.at(self.step - 1),
            train_seconds=sums.seconds,
            time=time.time(),
        )

    def state(self) -> LoopState:
        """Everything that the rest of the run depends on; the tensors are those of the loop, not copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        moments = optimizer_state(self.optimizer, self.model)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        tensors |= {f"random.{name}": tensor for name, tensor in random_state(self.device).items()}
        values = {
            "step": self.step,
            "examples_seen": self.examples_seen,
            "micro_batch_size": self.micro_batch_size,
            "halved_at": self.halved_at,
            "stop_reason": self.stop_reason,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "epoch_sums": asdict(self.epoch_sums),
        }
        return LoopState(tensors=tensors, values=values)

    def load(self, state: LoopState) -> None:
        """Go back to ``state``, which a loop of the same settings, model and data returned."""
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimizer": {}, "random": {}}
        for name, tensor in state.tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = tensor
        self.model.load_state_dict(parts["model"])
        load_optimizer_state(self.optimizer, self.model, parts["optimizer"])
        values = state.values
        set_random_state(parts["random"], self.device, otherwise=(self.settings.seed, values["step"]))
        # The moments are other tensors now: graphs of updates are dropped, both here and in the gradients.
        self.launcher.clear()
        self.gradients.set_micro_batch_size(values["micro_batch_size"])
        self.step = values["step"]
        self.examples_seen = values["examples_seen"]
        self.halved_at = list(values["halved_at"])
        self.stop_reason = values["stop_reason"]
        self.epochs = [Epoch(**epoch) for epoch in values["epochs"]]
        self.epoch_sums = TrainingSums(**values["epoch_sums"])
