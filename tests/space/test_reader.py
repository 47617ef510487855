"""Space files are read as what they say; errors in them are reported with their place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT
from space_files import FULL, SEARCH, SMALL, axis_values, write_reviews, write_space

from study.errors import SpaceError
from study.plan.plan import make_plan
from study.space.reader import read

BROKEN = sorted((Path(__file__).parent / "broken_spaces").glob("*.yaml"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_space(tmp_path, SMALL)


def test_the_broken_spaces_are_in_their_folder() -> None:
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_an_error_is_reported_with_the_line_and_column_of_its_value(path: Path) -> None:
    """The first line of each broken space names the place and a part of the message."""
    head = path.read_text().splitlines()[0]
    place, message = head.removeprefix("# ").split(" | ", maxsplit=1)
    with pytest.raises(SpaceError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert any(line.startswith(f"{path}:{place}: ") and message in line for line in lines), lines
    assert all(line.startswith(f"{path}:") for line in lines)
    assert "pydantic" not in str(caught.value)


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    path = write_space(tmp_path, "data: {source: 'builtin:review'}\nfixed: {epochs: x}\naxes: {seed: []}\nwen: []\n")
    with pytest.raises(SpaceError) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 5


@pytest.mark.parametrize("name", ["paper", "large_batch", "collapse", "tiny"])
def test_the_comments_of_the_spaces_count_their_cells_and_trajectories(name: str) -> None:
    path = ROOT / "search_spaces" / f"{name}.yaml"
    plan = make_plan(read(path))
    assert f"# {len(plan.cells)} cells, {len(plan.trajectories)} trajectories" in path.read_text()


@pytest.mark.parametrize("text", [SMALL, FULL])
def test_the_text_of_a_space_is_read_as_the_same_space(tmp_path: Path, text: str) -> None:
    space = read(write_space(tmp_path, text), set=["learning_rate=[5e-5, 1e-4]"], only=["model=tiny-bert"])
    (tmp_path / "elsewhere").mkdir()
    again = read(write_space(tmp_path / "elsewhere", space.text))
    assert again == space
    assert list(again.cells()) == list(space.cells())


def test_a_search_leaves_out_a_model_but_not_a_part_of_a_range(tmp_path: Path) -> None:
    path = write_space(tmp_path, SEARCH)
    assert read(path, only=["model=tiny-bert"]).groups() == [{"model": "tiny-bert"}]
    with pytest.raises(SpaceError, match=r"is a range; narrow it with --set 'learning_rate=\{low: 0\.1, high: 0\.2\}'"):
        read(path, set=["learning_rate={low: 0.1, high: 0.2}"], only=["learning_rate=0.1"])


def test_a_range_that_contradicts_another_setting_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="polynomial_power has no effect on the constant schedule"):
        read(write_space(tmp_path, SEARCH.replace("lr_schedule:", "polynomial_power: {low: 1, high: 2}, lr_schedule:")))


def test_only_keeps_the_named_values_of_an_axis(tmp_path: Path) -> None:
    path = write_space(tmp_path, FULL)
    space = read(path, only=["model=tiny-bert", "early_stopping={patience: 1, min_delta: 0.001}", "lr_schedule=linear"])
    assert axis_values(space, "model") == ["tiny-bert"]
    assert len(axis_values(space, "early_stopping")) == len(axis_values(space, "lr_schedule")) == 1
    assert axis_values(read(path, only=["early_stopping=none"]), "early_stopping") == [None]
    assert len(axis_values(read(path, only=["lr_schedule=linear,constant"]), "lr_schedule")) == 2
    assert len(read(path, only=["duration={epochs: 2}"]).axes[1].values) == 1
    betas = axis_values(read(path, only=["adam_betas=[0.9, 0.98]", "model=org/5e5"]), "adam_betas")
    assert betas == [[0.9, 0.98]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"set": ["learning_rat=1"]}, r"^--set learning_rat: unknown key; did you mean learning_rate\?"),
        ({"set": ["learning_rate=fast"]}, r"^--set learning_rate: expected a number, got 'fast'"),
        ({"set": ["learning_rate=[1e-4, fast]"]}, r"^--set learning_rate: expected a number, got 'fast'"),
        ({"set": ["learning_rate"]}, r"^--set learning_rate: expected KEY=VALUE"),
        ({"set": ["batch_size=[16"]}, r"^--set batch_size: not valid YAML"),
        ({"set": ["batch_size=[]"]}, r"^--set batch_size: is empty"),
        ({"set": ["data.max_lenth=64"]}, r"^--set data.max_lenth: unknown key; did you mean max_length\?"),
        ({"set": ["data.fractions.train=0.5"]}, r"the fractions add up to"),
        ({"set": ["run.gpu=-1"]}, r"^--set run.gpu: expected a number of at least 0, got -1"),
        ({"set": ["model=./nowhere"]}, r"^--set model: the model folder .*nowhere does not exist"),
        ({"set": ["polynomial_power=2"]}, r"^--set polynomial_power: polynomial_power has no effect"),
        ({"only": ["seed=1"]}, r"^--only seed: no such axis; the axes are model, batch_size, early_stopping"),
        ({"only": ["batch_size=17"]}, r"^--only batch_size: no value 17; there are 16, 64"),
        (
            {"only": ["early_stopping={patience: 2}"]},
            r"^--only early_stopping: no value .*; there are none, \{patience",
        ),
        ({"only": ["batch_size"]}, r"^--only batch_size: expected AXIS=VALUE"),
        ({"only": ["batch_size=16]"]}, r"^--only batch_size: not valid YAML"),
        ({"only": ["batch_size="]}, r"^--only batch_size: is empty"),
        ({"data": "nowhere.csv"}, r"^--data: the file .*nowhere.csv does not exist"),
        ({"data": "org/reviews"}, r"data.examples: is missing"),
    ],
)
def test_an_error_in_an_option_names_the_option(small: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        read(small, **options)


def test_a_batch_larger_than_the_data_of_the_command_line_is_an_error_in_the_file(tmp_path: Path, small: Path) -> None:
    with pytest.raises(
        SpaceError, match=r"small.yaml:6:20: axes.batch_size\[1\]: 64 is larger than the training split"
    ):
        read(small, data=str(write_reviews(tmp_path / "few.csv", rows=60)))


def test_the_default_batch_size_may_be_too_large_too(tmp_path: Path) -> None:
    few = "data: {source: 'builtin:reviews', examples: 10}\nfixed: {model: tiny-bert, epochs: 2}\n"
    with pytest.raises(SpaceError, match=r"batch_size: the default, 16 is larger than the training split, .* 8"):
        read(write_space(tmp_path, few))
    assert read(write_space(tmp_path, few.replace("epochs", "batch_size: 8, epochs"))).fixed["batch_size"] == 8


def test_reading_imports_nothing_heavy(small: Path) -> None:
    code = (
        "import sys; from study.space.reader import read; "
        "len(list(read(sys.argv[1]).cells())); "
        "print(*[n for n in ('torch', 'ray', 'mlflow', 'transformers', 'datasets', 'pyarrow') if n in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refuse(path: Path) -> None:
    """Reading ends in a SpaceError, or in a space whose own text is read as the same space."""
    try:
        space = read(path)
    except SpaceError:
        return
    assert read(write_space(path.parent, space.text)) == space


@QUICK
@given(
    content=st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "small.yaml"
    path.write_bytes(content)
    read_or_refuse(path)


@QUICK
@given(data=st.data())
def test_a_space_with_a_few_characters_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FULL)))
    end = data.draw(st.integers(start, min(len(FULL), start + 5)))
    inserted = data.draw(st.text(alphabet="[]{}:,-&*!'\"\n #~.0e9ax\t%@|>", max_size=4))
    read_or_refuse(write_space(tmp_path, FULL[:start] + inserted + FULL[end:]))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["none", "off", "1e5", "linear", "~", "./x", ".", "..", "/", "tiny-bert", "~nobody/x", "a" * 300]),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [spot for key, inner in pairs for spot in [(value, key), *spots(inner)]]


@QUICK
@given(data=st.data())
def test_a_space_with_a_value_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    document = yaml.safe_load(FULL.replace("1e-", "1.0e-"))
    container, key = data.draw(st.sampled_from(spots(document)))
    container[key] = data.draw(VALUES)
    read_or_refuse(write_space(tmp_path, yaml.safe_dump(document, allow_unicode=True)))
