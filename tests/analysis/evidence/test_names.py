"""Names have what distinguishes settings, and no more."""

import pytest
from study_builder import make_settings

from analysis.evidence.names import Naming, name_or_model
from study.settings import EarlyStopping, Settings

STOPS = EarlyStopping(patience=1)


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ([{"learning_rate": 1e-3}, {"learning_rate": 5e-4}], ["lr 0.001", "lr 0.0005"]),
        ([{"learning_rate": 1e-3}], ["tiny-bert"]),
        ([{"early_stopping": None}, {"early_stopping": STOPS}], ["no early stopping", "patience 1 on loss"]),
        (
            [{"early_stopping": None, "seed": 1}, {"early_stopping": STOPS, "seed": 2}],
            ["seed 1", "patience 1 on loss · seed 2"],
        ),
        (
            [{"lr_schedule": "constant"}, {"lr_schedule": "linear", "warmup_fraction": 0.1}],
            ["constant", "linear · 10% warm-up"],
        ),
        (
            [{"lr_schedule": "linear"}, {"lr_schedule": "linear", "warmup_fraction": 0.1}],
            ["no warm-up", "10% warm-up"],
        ),
        (
            [{"lr_schedule": "linear"}, {"lr_schedule": "constant"}, {"lr_schedule": "linear", "warmup_fraction": 0.1}],
            ["linear · no warm-up", "constant · no warm-up", "linear · 10% warm-up"],
        ),
    ],
)
def test_settings_are_named_by_what_varies(members: list[dict[str, object]], names: list[str]) -> None:
    settings = [make_settings(**values) for values in members]
    naming = Naming.of(settings, [key for key in Settings.model_fields if key != "epochs"])
    assert [name_or_model(naming, each) for each in settings] == names


def test_a_key_can_be_left_out() -> None:
    settings = [make_settings(seed=seed, learning_rate=rate) for seed in (0, 1) for rate in (1e-3, 2e-3)]
    naming = Naming.of(settings, ["learning_rate", "seed"])
    assert naming.name(settings[0], without=["seed"]) == "lr 0.001"
    assert naming.name(settings[0], without=["seed", "learning_rate"]) == ""
