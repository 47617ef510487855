"""Scores of a checkpoint on a split, and statistics of its predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax

from study.data.dataset import Encoded
from study.models.classifier import Classifier
from study.records import Precision
from study.scoring import Predictions, Scores, score
from study.training.devices import autocast, is_out_of_memory, release_memory

EVALUATION_BATCH = {"cpu": 64, "cuda": 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one split by metric, what its predictions look like (see :class:`study.records.Epoch`), and they."""

    scores: Scores
    majority_share: float
    entropy: float
    confidence: float
    logit_std: float
    predictions: Predictions


def evaluate(model: Classifier, split: Encoded, *, device: torch.device, precision: Precision) -> Evaluation:
    """Evaluate ``split`` with dropout off, in batches of like length; predictions are in the split's own order.

    A batch that does not fit is halved. Raises torch's own error when not even one example fits.
    """
    order = np.argsort(np.asarray(split.lengths), kind="stable")
    size = EVALUATION_BATCH.get(device.type, EVALUATION_BATCH["cpu"])
    training = model.training
    model.eval()
    parts: list[torch.Tensor] = []
    start = 0
    with torch.inference_mode(), autocast(device, precision):
        while start < len(order):
            try:
                parts.append(_logits(model, split, order[start : start + size], device))
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            else:
                start += size
                continue
            # Outside the handler: the exception holds the frames, and they the memory, of what failed.
            size = math.ceil(min(size, len(order) - start) / 2)
            release_memory()
    model.train(training)
    sorted_logits = torch.cat(parts).cpu().numpy()
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    return summarize(Predictions(example_id=np.asarray(split.ids), label=np.asarray(split.labels), logits=logits))


def _logits(model: Classifier, split: Encoded, rows: npt.NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """The logits ``[n, classes]`` of some rows of ``split``, padded to the longest of them."""
    lengths = np.asarray(split.lengths)[rows]
    longest = int(lengths.max())
    ids = torch.from_numpy(np.asarray(split.input_ids)[rows, :longest]).to(device)
    padded = bool((lengths < longest).any())
    logits: torch.Tensor = model(ids, torch.from_numpy(lengths).to(device) if padded else None)
    return logits.float()


def summarize(predictions: Predictions) -> Evaluation:
    """The evaluation that ``predictions`` give, in float64; all numbers are NaN where a logit is not finite."""
    logits: npt.NDArray[np.float64] = predictions.logits.astype(np.float64)
    n, classes = logits.shape
    if not predictions.finite:
        nan = math.nan
        return Evaluation(
            scores=score(predictions),
            majority_share=nan,
            entropy=nan,
            confidence=nan,
            logit_std=nan,
            predictions=predictions,
        )
    log_p = log_softmax(logits, axis=1)
    p = np.exp(log_p)
    return Evaluation(
        scores=score(predictions),
        majority_share=int(np.bincount(logits.argmax(axis=1), minlength=classes).max()) / n,
        entropy=float(-(p * log_p).sum() / n),
        confidence=float(p.max(axis=1).sum() / n),
        logit_std=float(logits.std(axis=0).mean()),
        predictions=predictions,
    )
