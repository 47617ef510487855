"""A space file is read as what it says, and what is wrong with it is said with its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT

from study.data.builtin_reviews import VERSION
from study.plan.plan import make_plan
from study.space.diagnostics import SpaceError
from study.space.ranges import Range
from study.space.reader import Space, read

BROKEN = sorted((Path(__file__).parent / "broken_spaces").glob("*.yaml"))
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


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path, SMALL)


def write(folder: Path, text: str) -> Path:
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def reviews(path: Path, rows: int = 100) -> Path:
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


def model_folder(path: Path, weights: bytes = b"weights") -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def axis(space: Space, name: str) -> list[object]:
    return [value.get(name) for each in space.axes if each.name == name for value in each.values]


def test_the_corpus_is_there() -> None:
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_file_is_faulted_where_it_is_broken(path: Path) -> None:
    head = path.read_text().splitlines()[0]
    place, message = head.removeprefix("# ").split(" | ", maxsplit=1)
    with pytest.raises(SpaceError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert any(line.startswith(f"{path}:{place}: ") and message in line for line in lines), lines
    assert all(line.startswith(f"{path}:") for line in lines)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: {source: '\xff'}\n", ":1:17: is not UTF-8"),
        (b"# " + b"x" * 1_000_000, ":1:1: has 1,000,002 bytes"),
        (b"name: a\x00b\n", ":1:8: not valid YAML: a character that cannot be printed"),
        (b'name: "\\ud800"\n', ":1:7: name: holds a character that cannot be printed"),
        (b'name: "\\Uffffffff"\n', "not valid YAML"),
        (b"name: " + b"9" * 5_000, "is too large"),
        (b"# only a comment\n", "holds nothing"),
    ],
)
def test_bytes_that_are_no_text_are_faulted(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=message):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nowhere\.yaml:1:1: no such file"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(SpaceError, match="is a folder"):
        read(tmp_path)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {source: 'builtin:review'}\nfixed: {epochs: x}\naxes: {seed: []}\nwen: []\n")
    with pytest.raises(SpaceError) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 5


@pytest.mark.parametrize("name", ["paper", "large_batch", "collapse", "tiny"])
def test_the_spaces_say_what_they_hold(name: str) -> None:
    path = ROOT / "search_spaces" / f"{name}.yaml"
    plan = make_plan(read(path))
    assert f"# {len(plan.cells)} cells, {len(plan.trajectories)} trajectories" in path.read_text()


def test_the_first_axis_varies_slowest_and_cells_hold_every_setting(small: Path) -> None:
    cells = list(read(small).cells())
    assert [(cell["model"], cell["batch_size"]) for cell in cells[::2]] == [
        ("tiny-bert", 16),
        ("tiny-bert", 64),
        ("tiny-roberta", 16),
        ("tiny-roberta", 64),
    ]
    assert cells[0]["early_stopping"] is None
    assert cells[1]["early_stopping"] == {"patience": 1, "min_delta": 0.0, "metric": "loss"}
    assert cells[0]["adam_betas"] == [0.9, 0.999]
    assert json.loads(json.dumps(cells)) == cells


@pytest.mark.parametrize("text", [SMALL, FULL])
def test_the_effective_text_is_read_as_the_same_space(tmp_path: Path, text: str) -> None:
    space = read(write(tmp_path, text), set=["learning_rate=[5e-5, 1e-4]"], only=["model=tiny-bert"])
    (tmp_path / "elsewhere").mkdir()
    again = read(write(tmp_path / "elsewhere", space.text))
    assert again == space
    assert list(again.cells()) == list(space.cells())


def test_rules_set_and_drop(tmp_path: Path) -> None:
    space = read(write(tmp_path, FULL))
    cells = list(space.cells())
    assert not any(cell["model"] == "tiny-bert" and cell["adam_betas"] == [0.9, 0.98] for cell in cells)
    changed = [cell for cell in cells if cell["model"] == "org/5e5" and cell["lr_schedule"] != "polynomial"]
    assert {(cell["learning_rate"], cell["epochs"], cell["optimizer_steps"]) for cell in changed} == {(1e-4, 3, None)}
    # Of the two durations one is left where the rule sets the epochs; what became equal stands there once.
    assert len(cells) == 2 * 3 * 2 + (2 * 2 * 2 + 2 * 2 * 2)
    assert len({json.dumps(cell) for cell in cells}) == len(cells)


def test_numbers_and_words_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    fixed = (
        "fixed: {model: tiny-bert, epochs: 0x2, learning_rate: 5e-5, max_gradient_norm: off, dropout: none, seed: 010}"
    )
    space = read(write(tmp_path, f"data: {{source: 'builtin:reviews'}}\n{fixed}\n"))
    assert space.fixed["learning_rate"] == 5e-5
    assert (space.fixed["epochs"], space.fixed["seed"]) == (2, 10)
    assert (space.fixed["max_gradient_norm"], space.fixed["dropout"]) == (None, None)


def test_aliases_may_repeat_a_value(tmp_path: Path) -> None:
    text = "data: {source: 'builtin:reviews'}\nfixed: {model: tiny-bert, epochs: &n 3, batch_size: *n}\n"
    assert read(write(tmp_path, text)).fixed["batch_size"] == 3


def test_set_replaces_values_and_makes_axes(small: Path) -> None:
    space = read(small, set=["batch_size=32", "seed=[1, 2]", "name=other", "data.max_length=64", "run.gpu=0.5"])
    assert (space.name, space.data.max_length, space.run.gpu) == ("other", 64, 0.5)
    assert space.fixed["batch_size"] == 32
    assert [each.name for each in space.axes] == ["model", "early_stopping", "seed"]
    assert axis(read(small, set=["batch_size=[8, 4]"]), "batch_size") == [8, 4]
    assert [each.name for each in read(small, set=["batch_size=[8]"]).axes][1] == "batch_size"
    assert read(small, set=["adam_betas=[0.9, 0.98]"]).fixed["adam_betas"] == [0.9, 0.98]
    assert axis(read(small, set=["adam_betas=[[0.9, 0.98]]"]), "adam_betas") == [[0.9, 0.98]]


SEARCH = """
data: {source: 'builtin:reviews', examples: 1000}
fixed: {epochs: 1, learning_rate: 1e-4}
axes: {model: [tiny-bert, tiny-roberta], lr_schedule: [constant, linear]}
search: {method: random, trials: 3, per: model}
"""


def test_set_makes_ranges_and_changes_the_search(tmp_path: Path) -> None:
    path = write(tmp_path, SEARCH)
    space = read(
        path, set=["learning_rate={low: 1e-5, high: 1e-3, log: true}", "search.trials=7", "epochs={low: 1, high: 3}"]
    )
    ranges = {axis.name: axis.range for axis in space.axes if axis.range is not None}
    assert ranges == {
        "learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "epochs": Range(low=1, high=3),
    }
    assert ranges["epochs"].whole
    assert not ranges["learning_rate"].whole
    assert space.search.trials == 7
    assert [axis.name for axis in space.searched] == ["lr_schedule", "learning_rate", "epochs"]
    assert read(path, set=["search=grid"]).search.method == "grid"
    assert len(list(read(path, set=["search=grid"]).cells())) == 4


def test_only_leaves_out_a_model_of_a_search_and_not_a_part_of_a_range(tmp_path: Path) -> None:
    path = write(tmp_path, SEARCH)
    assert read(path, only=["model=tiny-bert"]).groups() == [{"model": "tiny-bert"}]
    with pytest.raises(SpaceError, match=r"is a range; narrow it with --set 'learning_rate=\{low: 0\.1, high: 0\.2\}'"):
        read(path, set=["learning_rate={low: 0.1, high: 0.2}"], only=["learning_rate=0.1"])


def test_a_combination_that_a_range_makes_wrong_is_faulted(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="polynomial_power has no meaning for the constant schedule"):
        read(write(tmp_path, SEARCH.replace("lr_schedule:", "polynomial_power: {low: 1, high: 2}, lr_schedule:")))


def test_set_of_one_duration_replaces_the_other(tmp_path: Path) -> None:
    steps = read(write(tmp_path, SMALL), set=["optimizer_steps=10"])
    assert (steps.fixed["epochs"], steps.fixed["optimizer_steps"]) == (None, 10)
    epochs = read(write(tmp_path, FULL), set=["epochs=2"])
    assert (epochs.fixed["epochs"], epochs.fixed["optimizer_steps"]) == (2, None)
    both = read(write(tmp_path, SMALL), set=["duration=[{epochs: 1}, {optimizer_steps: 10}]"])
    assert axis(both, "duration") == [None, None]
    assert both.axes[-1].values == ({"epochs": 1, "optimizer_steps": None}, {"epochs": None, "optimizer_steps": 10})


def test_only_keeps_values(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    space = read(path, only=["model=tiny-bert", "early_stopping={patience: 1, min_delta: 0.001}", "lr_schedule=linear"])
    assert axis(space, "model") == ["tiny-bert"]
    assert len(axis(space, "early_stopping")) == len(axis(space, "lr_schedule")) == 1
    assert axis(read(path, only=["early_stopping=none"]), "early_stopping") == [None]
    assert len(axis(read(path, only=["lr_schedule=linear,constant"]), "lr_schedule")) == 2
    assert len(read(path, only=["duration={epochs: 2}"]).axes[1].values) == 1
    assert axis(read(path, only=["adam_betas=[0.9, 0.98]", "model=org/5e5"]), "adam_betas") == [[0.9, 0.98]]


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
        ({"set": ["polynomial_power=2"]}, r"^--set polynomial_power: polynomial_power has no meaning"),
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
def test_faults_of_options_name_the_option(small: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        read(small, **options)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_data_files_are_counted_and_identified(
    tmp_path: Path, small: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = reviews(tmp_path / f"reviews.{suffix}")
    monkeypatch.chdir(tmp_path)
    space = read(small, data=path.name)
    assert (space.examples, space.data.source) == (100, str(path))
    assert space.identities["data"].startswith("sha256:")
    assert read(small, data=path.name, set=["data.examples=90"]).examples == 90
    with pytest.raises(SpaceError, match="asks for 101 examples"):
        read(small, data=path.name, set=["data.examples=101"])
    reviews(path, rows=99)
    assert read(small, data=str(path)).identities["data"] != space.identities["data"]


def test_a_batch_larger_than_the_new_data_is_faulted_in_the_file(tmp_path: Path, small: Path) -> None:
    with pytest.raises(
        SpaceError, match=r"small.yaml:6:20: axes.batch_size\[1\]: 64 is larger than the training split"
    ):
        read(small, data=str(reviews(tmp_path / "few.csv", rows=60)))


def test_the_built_in_reviews_are_identified_by_their_version(small: Path) -> None:
    assert read(small).identities["data"] == f"builtin:reviews version {VERSION}"


def test_a_default_batch_may_be_too_large_too(tmp_path: Path) -> None:
    few = "data: {source: 'builtin:reviews', examples: 10}\nfixed: {model: tiny-bert, epochs: 2}\n"
    with pytest.raises(SpaceError, match=r"batch_size: the default, 16 is larger than the training split, .* 8"):
        read(write(tmp_path, few))
    assert read(write(tmp_path, few.replace("epochs", "batch_size: 8, epochs"))).fixed["batch_size"] == 8


def test_text_that_is_not_utf_8_is_faulted(tmp_path: Path, small: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"text,label\n" + b"cafe,0\ncaf\xe9,1\n" * 200)
    with pytest.raises(SpaceError, match=r"--data: .*latin.csv, row 2: the text is not UTF-8.* \(199 more"):
        read(small, data=str(path))


def test_a_model_folder_is_found_and_identified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = model_folder(tmp_path / "mine")
    (tmp_path / "work").mkdir()
    there = model_folder(tmp_path / "work" / "mine", b"others")
    space = read(write(tmp_path, SMALL.replace("tiny-roberta", "mine")))
    assert axis(space, "model") == ["tiny-bert", str(here)]
    assert space.identities["tiny-bert"] == "tiny-bert"
    monkeypatch.chdir(tmp_path / "work")
    other = read(write(tmp_path, SMALL), set=["model=./mine"])
    assert other.fixed["model"] == str(there)
    assert other.identities[str(there)].startswith("sha256:")
    assert other.identities[str(there)] != space.identities[str(here)]
    (there / "model.safetensors").rename(there / "pytorch_model.bin")
    with pytest.raises(SpaceError, match=r"has no \.safetensors weights"):
        read(write(tmp_path, SMALL), set=["model=./mine"])


def test_ten_thousand_cells(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    seeds, rates = list(range(50)), [(i + 1) * 1e-5 for i in range(25)]
    space = read(path, set=[f"seed={seeds}", f"learning_rate={rates}"])
    assert sum(1 for _ in space.cells()) == 10_000


def test_reading_imports_nothing_heavy(small: Path) -> None:
    code = (
        "import sys; from study import space; "
        "len(list(space.read(sys.argv[1]).cells())); "
        "print(*[n for n in ('torch', 'ray', 'mlflow', 'transformers', 'datasets', 'pyarrow') if n in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refuse(path: Path) -> None:
    """Reading ends in a SpaceError or a space that its own text gives again."""
    try:
        space = read(path)
    except SpaceError:
        return
    assert read(write(path.parent, space.text)) == space


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
def test_any_change_of_a_character_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FULL)))
    end = data.draw(st.integers(start, min(len(FULL), start + 5)))
    inserted = data.draw(st.text(alphabet="[]{}:,-&*!'\"\n #~.0e9ax\t%@|>", max_size=4))
    read_or_refuse(write(tmp_path, FULL[:start] + inserted + FULL[end:]))


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
def test_any_change_of_a_value_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    document = yaml.safe_load(FULL.replace("1e-", "1.0e-"))
    container, key = data.draw(st.sampled_from(spots(document)))
    container[key] = data.draw(VALUES)
    read_or_refuse(write(tmp_path, yaml.safe_dump(document, allow_unicode=True)))
