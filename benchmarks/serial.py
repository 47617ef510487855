"""A study trained with the library's ``Trainer``, one cell after the other.

As a user would write it, at the lowest cost: encoded data, all threads, early stopping by the library's callback, one
evaluation on test at the end of a cell, and nothing saved.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from benchmarks.contenders import collate, to_library
from study.data.dataset import EncodedData
from study.models.classifier import load_classifier
from study.settings import Settings
from study.training.devices import choose_precision, find_device

LARGEST_BATCH = 64


def cell_seconds(settings: Settings, data: EncodedData) -> float:
    """Seconds of one cell with a new model and a new ``Trainer``."""
    started = time.perf_counter()
    torch.manual_seed(settings.seed)
    stopping = settings.early_stopping
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=library_model(settings, data),
            args=transformers.TrainingArguments(output_dir=folder, **trainer_arguments(settings)),
            train_dataset=to_library(data.train),
            eval_dataset=to_library(data.validation),
            data_collator=collate,
            callbacks=[transformers.EarlyStoppingCallback(stopping.patience)] if stopping else [],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        test: Any = to_library(data.test)  # a list is a data set with an index
        trainer.predict(test)
    return time.perf_counter() - started


def library_model(settings: Settings, data: EncodedData) -> transformers.PreTrainedModel:
    """The model that the study would train, as the library makes it."""
    classifier = load_classifier(
        settings.model,
        classes=len(data.label_names),
        special=data.special,
        max_length=data.max_length,
        dropout=settings.dropout,
    )
    config = classifier.model.config
    config._attn_implementation = "sdpa"
    automatic: Any = transformers.AutoModelForSequenceClassification
    model: transformers.PreTrainedModel = automatic.from_config(config).float()
    return model


def trainer_arguments(settings: Settings) -> Mapping[str, Any]:
    """The library's names for ``settings``; the precision is the study's on a GPU, and float32 on a CPU."""
    micro_batch_size = min(settings.batch_size, LARGEST_BATCH)
    device = find_device()
    on_cpu = device.type == "cpu"
    return {
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // micro_batch_size,
        "per_device_eval_batch_size": LARGEST_BATCH,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.lr_schedule,
        "warmup_steps": settings.warmup_fraction,  # below 1, the library takes it as a share of all steps
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_gradient_norm or 0.0,
        "seed": settings.seed,
        "eval_strategy": "epoch",
        "metric_for_best_model": "eval_loss",
        "use_cpu": on_cpu,
        "bf16": not on_cpu and choose_precision(settings.precision, device) == "bfloat16",
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
