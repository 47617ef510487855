"""Seconds that this loop or the library's ``Trainer`` needs for a number of optimizer steps.

Each measurement starts with a new optimizer; only the weights are kept from one to the next. Set-up and warm-up steps
are not timed.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from benchmarks.workload import Shape, as_data, first_examples, make_model
from study.data.dataset import Encoded
from study.models.classifier import Classifier
from study.records import Precision
from study.settings import LARGEST_MICRO_BATCH, Settings
from study.stopping import StoppingPolicy
from study.training.devices import is_out_of_memory, release_memory
from study.training.loop import FineTuning

WARM_UP_STEPS = 2
# Settings of both sides, which are the library's defaults.
LEARNING_RATE, MAX_GRADIENT_NORM, WEIGHT_DECAY = 5e-5, 1.0, 0.01
# As often as a study logs by default; a shorter measurement ends with an interval of its own.
LOG_EVERY_EXAMPLES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of training: this loop, or ``trainer``.

    ``savings`` are those of :class:`study.models.classifier.Classifier`, ``capture`` is that of
    :class:`study.training.loop.FineTuning`.
    """

    name: str
    trainer: bool = False
    precision: Precision = "float32"
    savings: bool = False
    compile: bool = False
    capture: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A model of ``shape`` that is trained on ``texts``, with an effective batch size."""

    shape: Shape
    texts: Encoded
    batch_size: int


class Timing:
    """Times one contender on one device.

    ``ready`` is called just before the timing starts. ``micro_batch_size`` is the one that fitted, None before a
    measurement.
    """

    def __init__(
        self,
        work: Work,
        contender: Contender,
        *,
        device: torch.device,
        ready: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.work = work
        self.contender = contender
        self.device = device
        self.ready = ready
        self.clock = clock
        self.micro_batch_size: int | None = None
        torch.manual_seed(0)
        self.model = make_model(work.shape, max_length=work.texts.input_ids.shape[1], device=device)

    def seconds(self, steps: int) -> float:
        """Seconds of ``steps`` optimizer steps."""
        train = first_examples(self.work.texts, (WARM_UP_STEPS + steps) * self.work.batch_size)
        seconds = self._trainer_seconds(train) if self.contender.trainer else self._loop_seconds(train)
        self.model.zero_grad(set_to_none=True)
        release_memory()
        return seconds

    def _loop_seconds(self, train: Encoded) -> float:
        batch_size = self.work.batch_size
        settings = Settings(
            model="tiny-bert",  # only a required name: the model is passed to the loop
            epochs=1,
            batch_size=batch_size,
            learning_rate=LEARNING_RATE,
            max_gradient_norm=MAX_GRADIENT_NORM,
            weight_decay=WEIGHT_DECAY,
            compile=self.contender.compile,
            micro_batch_size=self.micro_batch_size or "auto",
            log_every_examples=WARM_UP_STEPS * batch_size,
        )
        data = as_data(train, self.work.shape)
        loop = FineTuning(
            Classifier(self.model, data.special.inputs, savings=self.contender.savings),
            data,
            settings,
            policies=[StoppingPolicy(max_epochs=1)],
            optimizer_steps=len(train) // batch_size,
            device=self.device,
            precision=self.contender.precision,
            capture=self.contender.capture,
        )
        next(loop.run())  # ends with a wait for the device
        loop.settings = settings.model_copy(update={"log_every_examples": LOG_EVERY_EXAMPLES})
        records = loop.run()
        self.ready()
        started = self.clock()
        while loop.step < loop.optimizer_steps:
            next(records)
        seconds = self.clock() - started
        self.micro_batch_size = loop.micro_batch_size
        return seconds

    def _trainer_seconds(self, train: Encoded) -> float:
        micro_batch_size = self.micro_batch_size or min(self.work.batch_size, LARGEST_MICRO_BATCH)
        while True:
            try:
                seconds = trainer_seconds(self, train, micro_batch_size)
            except RuntimeError as error:
                if not is_out_of_memory(error) or micro_batch_size == 1:
                    raise
            else:
                self.micro_batch_size = micro_batch_size
                return seconds
            micro_batch_size = math.ceil(micro_batch_size / 2)
            self.model.zero_grad(set_to_none=True)
            release_memory()


def to_library(encoded: Encoded) -> list[dict[str, torch.Tensor]]:
    """Examples as padded tensors, the cheapest data set that ``Trainer`` can have."""
    ids = torch.from_numpy(encoded.input_ids.astype("int64"))
    lengths = torch.from_numpy(encoded.lengths.astype("int64"))
    labels = torch.from_numpy(encoded.labels.astype("int64"))
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return [
        {"input_ids": ids[i], "attention_mask": mask[i], "labels": labels[i], "length": lengths[i]}
        for i in range(len(encoded))
    ]


def collate(examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch as long as its longest text, as from ``DataCollatorWithPadding``, but without its Python loop."""
    longest = int(torch.stack([example["length"] for example in examples]).max())
    return {
        "input_ids": torch.stack([example["input_ids"] for example in examples])[:, :longest],
        "attention_mask": torch.stack([example["attention_mask"] for example in examples])[:, :longest],
        "labels": torch.stack([example["labels"] for example in examples]),
    }


class _Clock(transformers.TrainerCallback):
    """Measures the time from the end of the warm-up to the end of the last step."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.started = self.seconds = 0.0

    def on_step_end(
        self, args: transformers.TrainingArguments, state: transformers.TrainerState, *_: Any, **__: Any
    ) -> None:
        if state.global_step == WARM_UP_STEPS:
            self._wait()
            self.timing.ready()
            self.started = self.timing.clock()
        if state.global_step == state.max_steps:
            self._wait()
            self.seconds = self.timing.clock() - self.started

    def _wait(self) -> None:
        if self.timing.device.type == "cuda":
            torch.cuda.synchronize()


def trainer_seconds(timing: Timing, train: Encoded, micro_batch_size: int) -> float:
    """Seconds of the library's ``Trainer``, which accumulates gradients where a micro-batch is not the whole batch."""
    clock = _Clock(timing)
    batch_size, contender = timing.work.batch_size, timing.contender
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro_batch_size,
            gradient_accumulation_steps=math.ceil(batch_size / micro_batch_size),
            max_steps=len(train) // batch_size,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRADIENT_NORM,
            bf16=contender.precision == "bfloat16",
            use_cpu=timing.device.type == "cpu",
            torch_compile=contender.compile,
            dataloader_pin_memory=timing.device.type == "cuda",
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        trainer = transformers.Trainer(
            model=timing.model,
            args=arguments,
            train_dataset=to_library(train),
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    assert trainer.state.global_step == arguments.max_steps
    return clock.seconds
