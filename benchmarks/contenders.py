"""How long does a loop take for so many optimizer steps: this one, or the library's ``Trainer``?

Each measurement begins with a fresh optimizer, and between two of them only the weights stay in memory. What comes
before the first step that is timed (set-up, moments, warm-up) is not counted.
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

from benchmarks.workload import Shape, as_data, make_model, take
from study.data.dataset import Encoded
from study.models.classifier import Classifier
from study.settings import Settings
from study.stopping import Policy
from study.training.devices import LARGEST_MICRO_BATCH, Precision, give_back_memory, is_out_of_memory
from study.training.loop import FineTuning

WARM_UP_STEPS = 2
# The settings that both sides share: the library's defaults.
LEARNING_RATE, MAX_GRADIENT_NORM, WEIGHT_DECAY = 5e-5, 1.0, 0.01
# What a study logs by default; shorter measurements end with an interval of their own.
LOG_EVERY_EXAMPLES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of training: this loop, or ``trainer``; ``savings`` as in :class:`study.models.classifier.Classifier`."""

    name: str
    trainer: bool = False
    precision: Precision = "float32"
    savings: bool = False
    compile: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is trained: a model of this shape on ``texts``, in this effective batch."""

    shape: Shape
    texts: Encoded
    batch_size: int


class Timing:
    """Times one contender on one device.

    ``ready`` is called just before time is taken, with ``clock``. ``micro_batch_size`` is what was found to fit.
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
        train = take(self.work.texts, (WARM_UP_STEPS + steps) * self.work.batch_size)
        taken = self._trainer_seconds(train) if self.contender.trainer else self._loop_seconds(train)
        self.model.zero_grad(set_to_none=True)
        give_back_memory()
        return taken

    def _loop_seconds(self, train: Encoded) -> float:
        batch_size = self.work.batch_size
        settings = Settings(
            model="tiny-bert",  # a name that has to be there; the model is given
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
            policies=[Policy(max_epochs=1)],
            optimizer_steps=len(train) // batch_size,
            device=self.device,
            precision=self.contender.precision,
        )
        next(loop.run())  # ends with a wait for the device
        loop.settings = settings.model_copy(update={"log_every_examples": LOG_EVERY_EXAMPLES})
        going_on = loop.run()
        self.ready()
        started = self.clock()
        while loop.step < loop.optimizer_steps:
            next(going_on)
        taken = self.clock() - started
        self.micro_batch_size = loop.micro_batch_size
        return taken

    def _trainer_seconds(self, train: Encoded) -> float:
        micro = self.micro_batch_size or min(self.work.batch_size, LARGEST_MICRO_BATCH)
        while True:
            try:
                taken = trainer_seconds(self, train, micro)
            except RuntimeError as error:
                if not is_out_of_memory(error) or micro == 1:
                    raise
            else:
                self.micro_batch_size = micro
                return taken
            micro = math.ceil(micro / 2)
            self.model.zero_grad(set_to_none=True)
            give_back_memory()


def rows(encoded: Encoded) -> list[dict[str, torch.Tensor]]:
    """Examples as the library's models take them, already padded tensors: the cheapest data set there can be."""
    ids = torch.from_numpy(encoded.input_ids.astype("int64"))
    lengths = torch.from_numpy(encoded.lengths.astype("int64"))
    labels = torch.from_numpy(encoded.labels.astype("int64"))
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return [
        {"input_ids": ids[i], "attention_mask": mask[i], "labels": labels[i], "length": lengths[i]}
        for i in range(len(encoded))
    ]


def collate(examples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch cut to its longest text, as ``DataCollatorWithPadding`` makes it, without its Python loop."""
    longest = int(torch.stack([example["length"] for example in examples]).max())
    return {
        "input_ids": torch.stack([example["input_ids"] for example in examples])[:, :longest],
        "attention_mask": torch.stack([example["attention_mask"] for example in examples])[:, :longest],
        "labels": torch.stack([example["labels"] for example in examples]),
    }


class _Clock(transformers.TrainerCallback):
    """Takes the time from the end of the warm-up to the end of the last step."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.started = self.taken = 0.0

    def on_step_end(
        self, args: transformers.TrainingArguments, state: transformers.TrainerState, *_: Any, **__: Any
    ) -> None:
        if state.global_step == WARM_UP_STEPS:
            self._wait()
            self.timing.ready()
            self.started = self.timing.clock()
        if state.global_step == state.max_steps:
            self._wait()
            self.taken = self.timing.clock() - self.started

    def _wait(self) -> None:
        if self.timing.device.type == "cuda":
            torch.cuda.synchronize()


def trainer_seconds(timing: Timing, train: Encoded, micro: int) -> float:
    """Seconds of the library's ``Trainer`` with accumulation where a micro-batch is not the whole batch."""
    clock = _Clock(timing)
    batch_size, contender = timing.work.batch_size, timing.contender
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=math.ceil(batch_size / micro),
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
            train_dataset=rows(train),
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    assert trainer.state.global_step == arguments.max_steps
    return clock.taken
