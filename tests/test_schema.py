"""The JSON Schema and the page of settings say what the settings are, and are up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from places import ROOT

from study.schema import PAGE_FILE, SCHEMA_FILE, settings_page, space_schema, value_schema
from study.settings import Data, EarlyStopping, Fractions, Reference, Run, Scheduler, Search, Section, Settings
from study.space.diagnostics import Diagnostics
from study.space.yaml_document import read

SECTIONS = (Settings, EarlyStopping, Data, Fractions, Run, Search, Scheduler, Reference)
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))
SMALL: dict[str, Any] = {"data": {"source": "builtin:reviews"}, "fixed": {"model": "tiny-bert", "epochs": 1}}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = space_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_both_files_are_what_make_docs_writes() -> None:
    assert json.loads((ROOT / SCHEMA_FILE).read_text()) == space_schema(), "run make docs"
    assert (ROOT / PAGE_FILE).read_text() == settings_page(), "run make docs"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_has_a_docstring_on_the_page(section: type[Section]) -> None:
    page = settings_page()
    for name, field in section.model_fields.items():
        assert field.description, name
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_names_the_schema_and_is_valid(validator: Draft202012Validator, path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    assert [error.message for error in validator.iter_errors(read(Diagnostics(path)))] == []


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("fixed", {"max_gradient_norm": "none"}),
        ("fixed", {"early_stopping": {"patience": 2, "metric": "accuracy"}}),
        ("fixed", {"lr_schedule": {"name": "linear", "warmup_fraction": 0.1}}),
        ("fixed", {"dropout": "off", "micro_batch_size": "auto"}),
        ("axes", {"learning_rate": {"low": 1e-5, "high": 1e-4, "log": True}}),
        ("axes", {"duration": [{"epochs": 3}, {"optimizer_steps": 100}]}),
        ("run", {"gpu": "auto"}),
        ("search", "random"),
        ("search", {"method": "optuna", "per": "model", "trials": 3, "scheduler": "asha"}),
    ],
)
def test_short_forms_are_valid(validator: Draft202012Validator, section: str, values: object) -> None:
    assert validator.is_valid({**SMALL, section: values})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("fixed", {"learning_rat": 1e-4}),
        ("fixed", {"learning_rate": "1e-4"}),
        ("fixed", {"learning_rate": 0}),
        ("fixed", {"warmup_fraction": 1}),
        ("fixed", {"lr_schedule": "lineal"}),
        ("fixed", {"checkpoint_metric": "f2"}),
        ("axes", {"seed": 3}),
        ("axes", {"batch_size": []}),
        ("when", [{"match": {"model": "tiny-bert"}}]),
        ("run", {"gpus": 1}),
        ("search", "grids"),
        ("data", {"source": "x.csv", "max_length": 4}),
    ],
)
def test_wrong_values_are_refused(validator: Draft202012Validator, section: str, values: object) -> None:
    assert not validator.is_valid({**SMALL, section: values})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_default_is_a_value_that_the_schema_allows(section: type[Section]) -> None:
    definitions = space_schema()["$defs"]
    for name, field in section.model_fields.items():
        if not field.is_required():
            default = json.loads(json.dumps(field.default, default=lambda value: value.model_dump()))
            schema = {**value_schema(section, name), "$defs": definitions}
            assert Draft202012Validator(schema).is_valid(default), name
