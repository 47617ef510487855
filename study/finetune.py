"""How is one model fine-tuned?

The loop is a generator that yields an :class:`~study.records.Interval` every so many examples and an
:class:`EpochEnd` after every epoch; whoever drives it may save its :meth:`FineTuning.state` at each of them and go on
from there later, to the bit. It knows neither files nor Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from study.cells import scores
from study.data import Encoded, EncodedData
from study.devices import (
    Precision,
    autocast,
    is_out_of_memory,
    random_state,
    set_random_state,
    start_micro_batch,
)
from study.evaluation import Evaluation, evaluate
from study.models import Classifier
from study.optimizer import make_optimizer
from study.order import epoch_order, interval_ends
from study.records import Epoch, Interval, Predictions, Split, StopReason
from study.schedules import factor, peak_learning_rate
from study.settings import Settings
from study.stopping import Policy, best_epoch, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnd:
    """An epoch's record and, where it is the best so far, the predictions of its checkpoint."""

    record: Epoch
    predictions: Mapping[Split, Predictions]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A loop's state: tensors by name, and plain JSON values."""

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]


@dataclass(slots=True)
class Sums:
    """What is added up over optimizer steps: on the device, so that no step waits for it."""

    loss: torch.Tensor
    norm: torch.Tensor
    norm_max: torch.Tensor
    non_finite: torch.Tensor
    examples: int = 0
    steps: int = 0

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        """Nothing yet."""
        wide = torch.float64 if device.type != "mps" else torch.float32
        return cls(*(torch.zeros((), dtype=wide, device=device) for _ in range(4)))

    def add(self, loss: torch.Tensor, norm: torch.Tensor, examples: int) -> None:
        """Count one optimizer step over ``examples`` whose losses add up to ``loss``."""
        self.loss += loss
        self.norm += norm
        self.norm_max = torch.maximum(self.norm_max, norm.to(self.norm_max.dtype))
        self.non_finite += ~(torch.isfinite(loss) & torch.isfinite(norm))
        self.examples += examples
        self.steps += 1


@dataclass(slots=True)
class EpochSums:
    """What an epoch has added up by the end of its last interval."""

    loss: float = 0.0
    norm: float = 0.0
    norm_max: float = 0.0
    non_finite: int = 0
    examples: int = 0
    steps: int = 0
    update_ratio: float = 0.0
    intervals: int = 0
    seconds: float = 0.0


class FineTuning:
    """Fine-tunes ``model`` on ``data`` until the last of ``policies`` has stopped.

    ``optimizer_steps`` is the length of the longest policy. The model must have been moved to ``device``; its weights
    are changed in place. Dropout draws from torch's global generators, which the caller has seeded.
    """

    def __init__(
        self,
        model: Classifier,
        data: EncodedData,
        settings: Settings,
        *,
        policies: Sequence[Policy],
        optimizer_steps: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.model = model
        self.settings = settings
        self.policies = tuple(policies)
        self.optimizer_steps = optimizer_steps
        self.device = device
        self.precision = precision
        self.data = data
        self.ids = torch.from_numpy(np.array(data.train.input_ids)).to(device)
        self.labels = torch.from_numpy(np.array(data.train.labels)).to(device)
        self.lengths = np.array(data.train.lengths)
        self.device_lengths = torch.from_numpy(self.lengths).to(device)
        self.forward = torch.compile(model) if settings.compile else model
        self.peak = peak_learning_rate(
            settings.learning_rate,
            scaling=settings.lr_scaling,
            batch_size=settings.batch_size,
            base_batch_size=settings.lr_scaling_base_batch_size,
        )
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(model, settings, device)
        self.micro_batch_size = start_micro_batch(settings.micro_batch_size, settings.batch_size, device)
        self.step = 0
        self.examples_seen = 0
        self.epochs: list[Epoch] = []
        self.epoch_sums = EpochSums()
        self.stop_reason: StopReason | None = None
        self.order = np.arange(0)
        self.device_order = torch.arange(0)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch; the last of them may be over a smaller batch."""
        return math.ceil(len(self.data.train) / self.settings.batch_size)

    def run(self) -> Iterator[Interval | EpochEnd]:
        """Train on from where the state stands; ends when :attr:`stop_reason` is set."""
        while self.stop_reason is None and not self._all_stopped():
            yield from self._epoch()
        if self.stop_reason is None:
            last = len(self.epochs) >= max(policy.max_epochs or math.inf for policy in self.policies)
            self.stop_reason = "epochs exhausted" if last else "stopped early"

    def _all_stopped(self) -> bool:
        history = scores(self.epochs)
        return all(decide(history, policy).stopped for policy in self.policies)

    def _epoch(self) -> Iterator[Interval | EpochEnd]:
        """The rest of the epoch that the state stands in, and its evaluation."""
        batch, epoch = self.settings.batch_size, len(self.epochs)
        first = epoch * self.steps_per_epoch
        last = min(first + self.steps_per_epoch, self.optimizer_steps)
        self.order = epoch_order(
            self.lengths, batch_size=batch, max_length=self.ids.shape[1], seed=self.settings.seed, epoch=epoch
        )
        self.device_order = torch.from_numpy(self.order).to(self.device)
        windows = [
            range(start, min(start + batch, len(self.order))) for start in range(0, (last - first) * batch, batch)
        ]
        closing = interval_ends([len(window) for window in windows], self.settings.log_every_examples)
        self.model.train()
        started, sums = time.perf_counter(), Sums.zero(self.device)
        for index in range(self.step - first, last - first):
            closes = index in closing
            before = [parameter.detach().clone() for parameter in self.parameters] if closes else []
            loss, norm = self._optimizer_step(windows[index])
            sums.add(loss, norm, len(windows[index]))
            if not closes:
                continue
            interval = self._close_interval(sums, before, seconds=time.perf_counter() - started)
            del before
            if not math.isfinite(interval.train_loss):
                self.stop_reason = "non-finite"
                break
            yield interval
            started, sums = time.perf_counter(), Sums.zero(self.device)
        end = self._end_epoch()
        self.epochs.append(end.record)
        self.epoch_sums = EpochSums()
        yield end

    def _close_interval(self, sums: Sums, before: list[torch.Tensor], *, seconds: float) -> Interval:
        """Bring the device's sums home, once per interval."""
        weights = [parameter.detach() for parameter in self.parameters]
        change = torch.nn.utils.get_total_norm(torch._foreach_sub(weights, before))
        ratio = change / torch.nn.utils.get_total_norm(before)
        values = torch.stack([sums.loss, sums.norm, sums.norm_max, sums.non_finite, ratio.to(sums.loss.dtype)])
        loss, norm, norm_max, non_finite, update_ratio = values.tolist()
        epoch = self.epoch_sums
        epoch.loss += loss
        epoch.norm += norm
        epoch.norm_max = float(np.maximum(epoch.norm_max, norm_max))
        epoch.non_finite += int(non_finite)
        epoch.examples += sums.examples
        epoch.steps += sums.steps
        epoch.update_ratio += update_ratio
        epoch.intervals += 1
        epoch.seconds += seconds
        return Interval(
            examples_seen=self.examples_seen,
            optimizer_step=self.step,
            train_loss=loss / sums.examples,
            gradient_norm=norm / sums.steps,
            learning_rate=self._learning_rate(self.step - 1),
            time=time.time(),
        )

    def _learning_rate(self, step: int) -> float:
        settings = self.settings
        return self.peak * factor(
            step,
            schedule=settings.lr_schedule,
            total_steps=self.optimizer_steps,
            warmup_fraction=settings.warmup_fraction,
            polynomial_power=settings.polynomial_power or 1.0,
        )

    def _optimizer_step(self, window: range) -> tuple[torch.Tensor, torch.Tensor]:
        """One step over a window of the epoch's order: its examples' summed loss and the gradient's norm before clipping."""
        loss = self._gradients(window)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.settings.max_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.max_gradient_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.examples_seen += len(window)
        return loss, norm

    def _gradients(self, window: range) -> torch.Tensor:
        """Accumulate the gradient of the window's mean loss; halve the micro-batch where memory does not suffice."""
        while True:
            generators = random_state(self.device)
            try:
                return self._accumulate(window)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self.micro_batch_size == 1:
                    raise
            # Outside the handler: the exception holds the frames, and they the memory, of what failed.
            self.optimizer.zero_grad(set_to_none=True)
            set_random_state(generators, self.device)
            self.micro_batch_size = math.ceil(self.micro_batch_size / 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulate(self, window: range) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for start in range(0, len(window), self.micro_batch_size):
            ids, lengths, index = self._gather(window[start : start + self.micro_batch_size])
            with autocast(self.device, self.precision):
                logits = self.forward(ids, lengths)
            loss = functional.cross_entropy(logits.float(), self.labels[index], reduction="sum")
            (loss / len(window)).backward()
            total += loss.detach()
        return total

    def _gather(self, window: range) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Ids, lengths (None where nothing is padded) and positions of a window, cut to its longest text."""
        lengths = self.lengths[self.order[window.start : window.stop]]
        longest = self.ids.shape[1] if self.settings.compile else int(lengths.max())
        index = self.device_order[window.start : window.stop]
        padded = bool((lengths < longest).any())
        return self.ids[index, :longest], self.device_lengths[index] if padded else None, index

    def _end_epoch(self) -> EpochEnd:
        """Evaluate on validation and, where this is the best epoch yet by either metric, on test."""
        validation = self._evaluate(self.data.validation)
        draft = self._record(validation, test=None)
        history = scores([*self.epochs, draft])
        metrics: tuple[Literal["loss", "accuracy"], ...] = ("loss", "accuracy")
        if self.stop_reason == "non-finite" or len(history) not in {best_epoch(history, metric) for metric in metrics}:
            return EpochEnd(record=draft, predictions={})
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
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            test_loss=test.loss if test else None,
            test_accuracy=test.accuracy if test else None,
            gradient_norm_mean=sums.norm / sums.steps,
            gradient_norm_max=sums.norm_max,
            update_ratio=sums.update_ratio / sums.intervals,
            majority_share=validation.majority_share,
            entropy=validation.entropy,
            confidence=validation.confidence,
            logit_std=validation.logit_std,
            non_finite_steps=sums.non_finite,
            learning_rate=self._learning_rate(self.step - 1),
            train_seconds=sums.seconds,
            time=time.time(),
        )

    def state(self) -> State:
        """Everything that the rest of the run depends on; the tensors are those of the loop, not copies."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
        tensors |= {f"random.{name}": tensor for name, tensor in random_state(self.device).items()}
        values = {
            "step": self.step,
            "examples_seen": self.examples_seen,
            "micro_batch_size": self.micro_batch_size,
            "stop_reason": self.stop_reason,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "epoch_sums": asdict(self.epoch_sums),
        }
        return State(tensors=tensors, values=values)

    def load(self, state: State) -> None:
        """Go back to ``state``, which a loop of the same settings, model and data returned."""
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "optimizer": {}, "random": {}}
        for name, tensor in state.tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = tensor
        self.model.load_state_dict(parts["model"])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        set_random_state(parts["random"], self.device)
        values = state.values
        self.step = values["step"]
        self.examples_seen = values["examples_seen"]
        self.micro_batch_size = values["micro_batch_size"]
        self.stop_reason = values["stop_reason"]
        self.epochs = [Epoch(**epoch) for epoch in values["epochs"]]
        self.epoch_sums = EpochSums(**values["epoch_sums"])
