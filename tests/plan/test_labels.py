"""Names of settings, cells and searches in a few words."""

from pathlib import Path

import pytest
from space_files import write_space
from study_builder import make_settings

from study.plan.labels import cell_name, group_of, label, search_groups, short_name
from study.settings import EarlyStopping, Settings
from study.space.reader import read

SEARCH = """
data: {source: 'builtin:reviews', examples: 1000}
fixed: {epochs: 1}
axes:
  model: [tiny-bert, org/tiny-roberta]
  lr_schedule: [constant, {name: linear, warmup_fraction: 0.1}]
  early_stopping: [none, {patience: 2}]
  learning_rate: {low: 1e-4, high: 1e-3}
search: {method: random, trials: 3, per: [model, lr_schedule, early_stopping]}
"""


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("model", "org/tiny-roberta", "tiny-roberta"),
        ("model", "/models/mine/", "mine"),
        ("lr_schedule", "linear", "linear"),
        ("learning_rate", 5e-5, "learning_rate 5e-05"),
        ("batch_size", 16, "batch_size 16"),
        ("dropout", None, "dropout none"),
        ("adam_betas", (0.9, 0.98), "adam_betas [0.9, 0.98]"),
        ("early_stopping", None, "no early stopping"),
        ("early_stopping", EarlyStopping(patience=2), "patience 2 on loss"),
        (
            "early_stopping",
            EarlyStopping(patience=1, metric="accuracy", min_delta=0.01),
            "patience 1 on accuracy min_delta 0.01",
        ),
    ],
)
def test_a_setting_is_named_in_a_few_words(key: str, value: object, text: str) -> None:
    assert label(key, value) == text


def test_a_column_heading_is_short() -> None:
    names = ["learning_rate", "warmup_fraction", "max_gradient_norm"]
    assert [short_name(name) for name in names] == ["lr", "warm-up", "max gradient norm"]


def test_a_cell_is_named_by_the_values_of_the_axes() -> None:
    settings = make_settings(learning_rate=1e-4, batch_size=32, seed=3)
    assert cell_name(settings, ["learning_rate", "batch_size", "seed"]) == "lr 0.0001 · batch 32 · seed 3"
    assert cell_name(settings, []) == "tiny-bert"
    steps = Settings(model="tiny-bert", optimizer_steps=10)
    assert cell_name(steps, ["epochs", "optimizer_steps"]) == "steps 10"


def test_every_choice_of_a_search_belongs_to_one_of_its_groups(tmp_path: Path) -> None:
    space = read(write_space(tmp_path, SEARCH))
    groups = search_groups(space)
    assert len(groups) == 2 * 2 * 2
    assert "tiny-roberta · linear · warmup_fraction 0.1 · patience 2 on loss" in groups
    for name, values in groups.items():
        settings = Settings.model_validate({**space.fixed, **values, "learning_rate": 2e-4})
        assert group_of(space, settings) == name


def test_a_search_without_per_axes_is_one_group(tmp_path: Path) -> None:
    space = read(write_space(tmp_path, SEARCH), set=["search.per=[]"])
    assert search_groups(space) == {"all": {}}
    assert group_of(space, make_settings()) == "all"
