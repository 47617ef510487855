"""What a dry run says of GPU hours."""

import re
from pathlib import Path

import pytest
from places import ROOT
from study_builder import ended, make_study
from test_summary import GRID, SEARCH

from study import command
from study.execution.growth import find_plan
from study.models.shapes import find_shape
from study.plan.cell_results import cell_results
from study.plan.gpu_hours import CostModel
from study.plan.gpu_speeds import GPUS, gpu_named
from study.plan.plan import Plan, make_plan
from study.space.reader import read
from study.space.space import Space
from study.storage import StudyFolder
from study.terminal.gpu_cost import describe_cluster_hours, describe_gpu_hours

PAPER = ROOT / "search_spaces" / "paper.yaml"
ON_GPUS = "run: {gpu: 1}\n"


def planned(tmp_path: Path, text: str) -> tuple[Space, Plan]:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    space = read(path)
    return space, find_plan(StudyFolder(tmp_path / "none"), space)


def described(tmp_path: Path, text: str, gpu: str = "h100") -> str:
    """What a dry run says, on one line; no line of it is wider than a terminal."""
    space, plan = planned(tmp_path, text)
    folder = StudyFolder(tmp_path / "none")
    return on_one_line(describe_gpu_hours(space, plan, cell_results(folder, plan), gpu_named(gpu)))


def on_one_line(output: str) -> str:
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("GPU hours  ")
    assert all(line.startswith(" " * 11) for line in lines[1:])
    return " ".join(output.split())


def paper_hours(gpu: str) -> float:
    space = read(PAPER)
    shapes = {model: find_shape(model) for model in space.models}
    return CostModel(space=space, shapes=shapes, gpu=gpu_named(gpu)).hours(make_plan(space).trajectories)


@pytest.mark.parametrize("gpu", [gpu.name for gpu in GPUS])
def test_a_dry_run_says_hours_and_what_they_rest_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpu: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["--space", str(PAPER), "--dry-run", "--device", gpu.lower()]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("GPU hours  "))
    assert lines[first - 1].startswith("left ")
    assert lines[first + 2].startswith("power ")
    text = on_one_line("\n".join(lines[first : first + 2]))
    hours = paper_hours(gpu)
    assert text.startswith(f"GPU hours about {hours:.2g} on one {gpu}, ")
    found = re.search(r", (\d+) (s|min) a trajectory on average, ", text)
    assert found is not None
    unit = {"s": 1, "min": 60}[found[2]]
    assert int(found[1]) * unit == pytest.approx(hours * 36, abs=unit)
    if measured := gpu_named(gpu).measured:
        assert text.endswith(f", from rates measured on {gpu_named(gpu).date}")
    assert ("datasheet" in text) == (not measured)
    if not measured:
        assert text.endswith(f", estimated from the {gpu}'s datasheet and the H100's measured rates")


def test_the_readme_says_what_paper_yaml_costs_on_an_h100() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    (said,) = re.findall(r"about ([\d.]+) hours on one H100", readme)
    assert said == f"{paper_hours('h100'):.2g}"


def test_a_dry_run_without_a_device_says_nothing_of_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["--space", str(PAPER), "--dry-run"]) == 0
    assert "GPU" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry-run", "--device", "V100"], "argument --device: unknown GPU 'V100'; known are A100, H100, H200, L4"),
        (["--device", "h100"], "--device is only for --dry-run: a study trains on the GPUs of its cluster"),
    ],
    ids=["unknown", "without --dry-run"],
)
def test_a_device_that_cannot_be_used_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(["--space", str(PAPER), *arguments])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_what_is_done_costs_nothing_more(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", {"seed": [0, 1, 2]})
    space, _ = planned(tmp_path, GRID + ON_GPUS)
    gpu = gpu_named("h100")

    def hours() -> float:
        text = describe_gpu_hours(space, study.plan, cell_results(study.folder, study.plan), gpu)
        found = re.search(r"about ([\d.]+) on", text)
        return float(found[1]) if found else 0.0

    whole = hours()
    study.train(study.plan.trajectories[0], validation_loss=[0.5] * 4, outcome=ended())
    assert 0 < hours() == pytest.approx(whole * 2 / 3, rel=0.1)
    for trajectory in study.plan.trajectories[1:]:
        study.train(trajectory, validation_loss=[0.5] * 4, outcome=ended())
    text = describe_gpu_hours(space, study.plan, cell_results(study.folder, study.plan), gpu)
    assert text == "GPU hours  none: nothing is left to train"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GRID, "run.gpu is 0, so it trains on CPUs; give --set run.gpu=1"),
        (
            GRID.replace("epochs: 4", "epochs: 4, precision: float32") + ON_GPUS,
            "rates were measured in bfloat16, and precision is float32",
        ),
        (
            GRID.replace("tiny-bert", "somebody/unheard-of-bert") + ON_GPUS,
            "somebody/unheard-of-bert: its config is not on this machine, and a dry run downloads nothing",
        ),
    ],
    ids=["no GPU", "float32", "unknown model"],
)
def test_hours_that_are_not_known_are_said_to_be_so(tmp_path: Path, text: str, reason: str) -> None:
    assert described(tmp_path, text) == f"GPU hours not known: {reason}"


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = GRID.replace("tiny-bert", "microsoft/deberta-v3-base").replace("1000}", "1000, max_length: 256}") + ON_GPUS
    assert described(tmp_path, text).endswith(
        "; those of deberta-v2 were not measured, so BERT's stand in; all texts count as 256 tokens long"
    )


def test_a_search_costs_at_most_what_its_budget_allows(tmp_path: Path) -> None:
    """Ten trials of two seeds each take about four seconds a run to start, and little more."""
    text = described(tmp_path, SEARCH + ON_GPUS)
    found = re.fullmatch(r"GPU hours at most about ([\d.]+) on one H100, from rates measured on [\d-]+", text)
    assert found is not None
    assert 20 * 4 / 3600 < float(found[1]) < 20 * 5 / 3600
    in_examples = described(tmp_path, SEARCH.replace("trials: 5", "examples: 8000") + ON_GPUS)
    assert float(in_examples.split()[5]) == pytest.approx(float(found[1]) / 2, rel=0.05)
    in_hours = described(tmp_path, SEARCH.replace("trials: 5", "gpu_hours: 1.5") + ON_GPUS)
    assert in_hours.startswith("GPU hours at most about 3 on one H100")


def test_a_cluster_has_a_line_for_each_of_its_gpus(tmp_path: Path) -> None:
    space, plan = planned(tmp_path, GRID + ON_GPUS)
    results = cell_results(StudyFolder(tmp_path / "none"), plan)
    output = describe_cluster_hours(space, plan, results, ["H100", "A100-80G", "T4", None])
    parts = [on_one_line("GPU hours  " + part.rstrip()) for part in output.split("GPU hours  ")[1:]]
    assert parts[0] == on_one_line(describe_gpu_hours(space, plan, results, gpu_named("h100")))
    assert parts[1] == on_one_line(describe_gpu_hours(space, plan, results, gpu_named("a100")))
    assert parts[2:] == [
        "GPU hours not known: unknown GPU 'T4'; known are A100, H100, H200, L4",
        "GPU hours not known: Ray does not say what the cluster's GPUs are; give --device NAME",
    ]
    assert describe_cluster_hours(space, plan, results, []) == (
        "GPU hours  not known: no node of the cluster has a GPU; give --device NAME"
    )
