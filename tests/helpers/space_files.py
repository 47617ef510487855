"""Space files, data files and model folders that tests of reading write."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from study.space.space import Space

SMALL = """
data: {source: 'builtin:reviews'}
fixed: {epochs: 2}
axes:
  model: [tiny-bert, tiny-roberta]
  batch_size: [16, 64]
  early_stopping: [none, {patience: 1}]
"""
FULL = """
name: full
data: {source: 'builtin:reviews', examples: 1000, fractions: {train: 0.7, validation: 0.2, test: 0.1}}
fixed: {dropout: off, adam_eps: 1e-6}
axes:
  model: [tiny-bert, org/5e5]
  duration: [{epochs: 2}, {optimizer_steps: 50}]
  lr_schedule: [constant, {name: linear, warmup_fraction: 0.1}, {name: polynomial, polynomial_power: 2}]
  adam_betas: [[0.9, 0.999], [0.9, 0.98]]
  early_stopping: [none, {patience: 1, min_delta: 1e-3}]
when:
  - match: {model: tiny-bert, adam_betas: [0.9, 0.98]}
    drop: true
  - match: {model: org/5e5, lr_schedule: [constant, linear]}
    set: {learning_rate: 1e-4, epochs: 3}
run: {gpu: 0.5}
references:
  - {match: {model: tiny-bert, early_stopping: {patience: 1}}, test_loss: 0.3, source: "somewhere: else"}
"""
SEARCH = """
data: {source: 'builtin:reviews', examples: 1000}
fixed: {epochs: 1, learning_rate: 1e-4}
axes: {model: [tiny-bert, tiny-roberta], lr_schedule: [constant, linear]}
search: {method: random, trials: 3, per: model}
"""


def write_space(folder: Path, text: str) -> Path:
    """A space file in ``folder``."""
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def write_reviews(path: Path, rows: int = 100) -> Path:
    """A data file of the kind that its suffix names."""
    columns: dict[str, Any] = {"text": [f"review {i}" for i in range(rows)], "label": [i % 2 for i in range(rows)]}
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".csv":
        path.write_text(
            "text,label\n" + "".join(f'"{text},\nmore",{i % 2}\n' for i, text in enumerate(columns["text"]))
        )
    else:
        lines = [json.dumps({"text": text, "label": i % 2}) for i, text in enumerate(columns["text"])]
        path.write_text("\n".join(lines))
    return path


def write_unloadable_model(path: Path, weights: bytes = b"weights") -> Path:
    """A folder with the files of a model, which a space reads and torch does not."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def axis_values(space: Space, name: str) -> list[object]:
    """The values that the axis ``name`` gives the setting of that name, in canonical form."""
    return [value.get(name) for axis in space.axes if axis.name == name for value in axis.values]
