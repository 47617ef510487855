"""How good is a checkpoint on a split, and what do its predictions look like?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax

from study.data.dataset import Encoded
from study.models.classifier import Classifier
from study.records import Predictions
from study.training.devices import Precision, autocast

EVALUATION_BATCH = {"cpu": 64, "cuda": 1024}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one split (see :class:`study.records.Epoch` for units) and the predictions they are made of."""

    loss: float
    accuracy: float
    majority_share: float
    entropy: float
    confidence: float
    logit_std: float
    predictions: Predictions


def evaluate(model: Classifier, split: Encoded, *, device: torch.device, precision: Precision) -> Evaluation:
    """Score ``split`` with dropout off. Texts are taken by length, so that little is padded; the order is put back."""
    order = np.argsort(np.asarray(split.lengths), kind="stable")
    ids, lengths = np.asarray(split.input_ids), np.asarray(split.lengths)
    size = EVALUATION_BATCH.get(device.type, EVALUATION_BATCH["cpu"])
    training = model.training
    model.eval()
    parts: list[torch.Tensor] = []
    with torch.inference_mode(), autocast(device, precision):
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            longest = int(lengths[rows].max())
            padded = bool((lengths[rows] < longest).any())
            parts.append(
                model(
                    torch.from_numpy(ids[rows, :longest]).to(device),
                    torch.from_numpy(lengths[rows]).to(device) if padded else None,
                ).float()
            )
    model.train(training)
    sorted_logits = torch.cat(parts).cpu().numpy()
    logits = np.empty_like(sorted_logits)
    logits[order] = sorted_logits
    return score(Predictions(example_id=np.asarray(split.ids), label=np.asarray(split.labels), logits=logits))


def score(predictions: Predictions) -> Evaluation:
    """Scores of ``predictions``, summed in float64 and divided once; all NaN where a logit is not finite."""
    logits: npt.NDArray[np.float64] = predictions.logits.astype(np.float64)
    n, classes = logits.shape
    if not np.isfinite(logits).all():
        nan = math.nan
        return Evaluation(
            loss=nan,
            accuracy=nan,
            majority_share=nan,
            entropy=nan,
            confidence=nan,
            logit_std=nan,
            predictions=predictions,
        )
    log_p = log_softmax(logits, axis=1)
    p = np.exp(log_p)
    predicted = logits.argmax(axis=1)
    return Evaluation(
        loss=float(-log_p[np.arange(n), predictions.label].sum() / n),
        accuracy=int((predicted == predictions.label).sum()) / n,
        majority_share=int(np.bincount(predicted, minlength=classes).max()) / n,
        entropy=float(-(p * log_p).sum() / n),
        confidence=float(p.max(axis=1).sum() / n),
        logit_std=float(logits.std(axis=0).mean()),
        predictions=predictions,
    )
