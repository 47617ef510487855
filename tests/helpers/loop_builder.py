"""Small loops on made-up tokens, which take seconds to train and are special only in their sizes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from study.data.dataset import Encoded, EncodedData
from study.models.classifier import load_classifier
from study.models.tokenizer import SpecialTokens
from study.records import Precision
from study.settings import Settings
from study.stopping import StoppingPolicy
from study.training.loop import FineTuning

FAMILIES = ("tiny-bert", "tiny-roberta")
CPU = torch.device("cpu")
VOCABULARY, LENGTH, CLASSES = 120, 16, 2
# Ids below this one are special, both families' padding among them, and occur in no text.
SPECIAL_IDS = 5


def make_settings(**values: Any) -> Settings:
    """Two epochs of float32 without dropout or clipping, unless ``values`` say otherwise."""
    return Settings.model_validate(
        {"model": "tiny-bert", "epochs": 2, "dropout": 0.0, "precision": "float32", "learning_rate": 1e-3, **values}
    )


def make_encoded(n: int, *, seed: int, pad: int, shortest: int = 3) -> Encoded:
    """Texts of ``shortest`` to 16 tokens, labelled by whether most tokens are from the low half of the vocabulary."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, LENGTH + 1, n)
    ids = rng.integers(SPECIAL_IDS, VOCABULARY, (n, LENGTH))
    inside = np.arange(LENGTH) < lengths[:, None]
    low = ((ids < (SPECIAL_IDS + VOCABULARY) // 2) & inside).sum(axis=1)
    return Encoded(
        input_ids=np.where(inside, ids, pad).astype(np.int32),
        lengths=lengths.astype(np.int32),
        labels=(2 * low > lengths).astype(np.int64),
        ids=rng.permutation(n).astype(np.int64),
    )


def make_data(model: str, *, train: int, evaluated: int = 20, shortest: int = 3) -> EncodedData:
    """Three splits; ``shortest`` 16 leaves nothing to pad."""
    pad = 0 if model == "tiny-bert" else 1
    return EncodedData(
        train=make_encoded(train, seed=1, pad=pad, shortest=shortest),
        validation=make_encoded(evaluated, seed=2, pad=pad, shortest=shortest),
        test=make_encoded(evaluated, seed=3, pad=pad, shortest=shortest),
        label_names=("no", "yes"),
        special=SpecialTokens(pad=pad, vocabulary=VOCABULARY),
        tokenizer=Path("no-tokenizer"),
    )


def make_loop(
    data: EncodedData,
    settings: Settings,
    *,
    policies: Sequence[StoppingPolicy] | None = None,
    precision: Precision = "float32",
    device: torch.device = CPU,
    capture: bool = True,
) -> FineTuning:
    """A loop at its start, with the number of steps that a plan would give it; one policy that never stops early."""
    steps_per_epoch = -(-len(data.train) // settings.batch_size)
    steps = settings.optimizer_steps or (settings.epochs or 0) * steps_per_epoch
    torch.manual_seed(settings.seed)
    model = load_classifier(
        settings.model, classes=CLASSES, special=data.special, max_length=LENGTH, dropout=settings.dropout
    )
    return FineTuning(
        model.to(device),
        data,
        settings,
        policies=policies or [StoppingPolicy(max_epochs=-(-steps // steps_per_epoch))],
        optimizer_steps=steps,
        device=device,
        precision=precision,
        capture=capture,
    )


def weights(loop: FineTuning) -> dict[str, torch.Tensor]:
    """Copies of the model's weights, by name."""
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def assert_same_bits(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Assert the same names and, for each, the same bits."""
    assert got.keys() == expected.keys()
    unequal = {name: (got[name], tensor) for name, tensor in expected.items() if not torch.equal(got[name], tensor)}
    if unequal:
        largest = {name: float((a.double() - b.double()).abs().max()) for name, (a, b) in unequal.items()}
        raise AssertionError(f"{len(unequal)} of {len(expected)} tensors differ: {largest}")
