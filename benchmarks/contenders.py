"""How long does a loop take for so many optimizer steps: this one, or the library's ``Trainer``?

Every contender trains the same model object from a fresh optimizer, so that any number of them needs the memory of one.
What comes before the first step that is timed (set-up, moments, warm-up) is not counted.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from benchmarks.workload import Shape, as_data, take
from study.data import Encoded
from study.devices import Precision, is_out_of_memory
from study.finetune import FineTuning
from study.models import Classifier
from study.settings import Settings
from study.stopping import Policy

WARM_UP_STEPS = 2
# The settings that both sides share: the library's defaults.
LEARNING_RATE, MAX_GRADIENT_NORM, WEIGHT_DECAY = 5e-5, 1.0, 0.01
# What a study logs by default; shorter measurements end with an interval of their own.
LOG_EVERY_EXAMPLES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of training: by this loop or by ``trainer``; ``savings`` leaves out what no logit depends on."""

    name: str
    trainer: bool = False
    precision: Precision = "float32"
    savings: bool = False
    compile: bool = False


@dataclass(slots=True, kw_only=True)
class Case:
    """One model, its texts and the effective batch, on one device.

    ``ready`` is called just before time is taken, with ``clock``.
    """

    shape: Shape
    model: transformers.PreTrainedModel
    texts: Encoded
    batch_size: int
    device: torch.device
    ready: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.perf_counter
    micro_batch: dict[str, int] = field(default_factory=dict)

    def seconds(self, contender: Contender, steps: int) -> float:
        """Seconds of ``steps`` optimizer steps."""
        train = take(self.texts, (WARM_UP_STEPS + steps) * self.batch_size)
        if contender.trainer:
            return self._trainer_seconds(contender, train)
        return self._loop_seconds(contender, train)

    def _loop_seconds(self, contender: Contender, train: Encoded) -> float:
        settings = Settings(
            model="tiny-bert",  # a name that has to be there; the model is given
            epochs=1,
            batch_size=self.batch_size,
            learning_rate=LEARNING_RATE,
            max_gradient_norm=MAX_GRADIENT_NORM,
            weight_decay=WEIGHT_DECAY,
            compile=contender.compile,
            micro_batch_size=self.micro_batch.get(contender.name, "auto"),
            log_every_examples=WARM_UP_STEPS * self.batch_size,
        )
        model = Classifier(self.model)
        try:
            if not contender.savings:
                whole_last_layer(self.model)
            loop = FineTuning(
                model,
                as_data(train, self.shape),
                settings,
                policies=[Policy(max_epochs=1)],
                optimizer_steps=len(train) // self.batch_size,
                device=self.device,
                precision=contender.precision,
            )
            next(loop.run())  # ends with a wait for the device
            loop.settings = settings.model_copy(update={"log_every_examples": LOG_EVERY_EXAMPLES})
            going_on = loop.run()
            self.ready()
            started = self.clock()
            while loop.step < loop.optimizer_steps:
                next(going_on)
            taken = self.clock() - started
            self.micro_batch[contender.name] = loop.micro_batch_size
        finally:
            whole_last_layer(self.model)
        return taken

    def _trainer_seconds(self, contender: Contender, train: Encoded) -> float:
        micro = self.micro_batch.get(contender.name, min(self.batch_size, 512))
        while True:
            try:
                taken = trainer_seconds(self, contender, train, micro)
            except RuntimeError as error:
                if not is_out_of_memory(error) or micro == 1:
                    raise
            else:
                self.micro_batch[contender.name] = micro
                return taken
            micro = math.ceil(micro / 2)
            self.model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()


def whole_last_layer(model: transformers.PreTrainedModel) -> None:
    """Let the last layer compute all positions again, as the library wrote it."""
    vars(model.base_model.encoder.layer[-1]).pop("forward", None)


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

    def __init__(self, case: Case) -> None:
        self.case = case
        self.started = self.taken = 0.0

    def on_step_end(
        self, args: transformers.TrainingArguments, state: transformers.TrainerState, *_: Any, **__: Any
    ) -> None:
        if state.global_step == WARM_UP_STEPS:
            self._wait()
            self.case.ready()
            self.started = self.case.clock()
        if state.global_step == state.max_steps:
            self._wait()
            self.taken = self.case.clock() - self.started

    def _wait(self) -> None:
        if self.case.device.type == "cuda":
            torch.cuda.synchronize()


def trainer_seconds(case: Case, contender: Contender, train: Encoded, micro: int) -> float:
    """Seconds of the library's ``Trainer`` with accumulation where a micro-batch is not the whole batch."""
    clock = _Clock(case)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=math.ceil(case.batch_size / micro),
            max_steps=len(train) // case.batch_size,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRADIENT_NORM,
            bf16=contender.precision == "bfloat16",
            use_cpu=case.device.type == "cpu",
            torch_compile=contender.compile,
            dataloader_pin_memory=case.device.type == "cuda",
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        )
        trainer = transformers.Trainer(
            model=case.model,
            args=arguments,
            train_dataset=rows(train),  # type: ignore[arg-type]  # a list is a data set with an index
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    assert trainer.state.global_step == arguments.max_steps
    return clock.taken
