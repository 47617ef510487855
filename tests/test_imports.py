"""What importing our packages loads, through the libraries that they use too; import-linter checks their imports."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest
from places import ROOT

HEAVY = ("torch", "ray", "transformers", "mlflow", "datasets")
# Folders, and what none of their modules may load.
FORBIDDEN: Mapping[str, tuple[str, ...]] = {
    "study": HEAVY,
    "study/space": HEAVY,
    "study/plan": HEAVY,
    "study/search": HEAVY,
    "study/terminal": HEAVY,
    "study/tracking": ("torch", "ray", "transformers"),
    "study/models": ("ray", "mlflow"),
    "study/data": ("ray", "mlflow"),
    "study/training": ("ray", "mlflow"),
    "analysis": HEAVY,
    "analysis/evidence": HEAVY,
    "analysis/questions": HEAVY,
    "analysis/rendering": HEAVY,
    "analysis/selection": HEAVY,
    "analysis/statistics": HEAVY,
    "analysis/what_happened": HEAVY,
}
# Reads a study back from its mirror.
READS_MLFLOW = "analysis.from_mlflow"
CODE = """
import importlib, sys
for module in sys.argv[2:]:
    importlib.import_module(module)
    for name in sys.argv[1].split(","):
        if name in sys.modules:
            sys.exit(f"{module} loads {name}")
"""


@pytest.mark.parametrize("names", sorted(set(FORBIDDEN.values())), ids=", ".join)
def test_no_module_loads_a_library_that_its_package_must_not_know(names: Sequence[str]) -> None:
    folders = [folder for folder, forbidden in FORBIDDEN.items() if forbidden == names]
    paths = [path for folder in folders for path in sorted((ROOT / folder).glob("*.py"))]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    command = [sys.executable, "-c", CODE, ",".join(names), *(name for name in modules if name != READS_MLFLOW)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_package_but_the_one_that_runs_the_cluster_is_listed() -> None:
    paths = [path for base in ("study", "analysis") for path in (ROOT / base).rglob("*.py")]
    assert {str(path.parent.relative_to(ROOT)) for path in paths} - FORBIDDEN.keys() == {"study/execution"}


def test_planning_a_space_loads_nothing_heavy() -> None:
    code = f"""
import sys
from study.plan.plan import make_plan
from study.space.reader import read
print(len(make_plan(read(sys.argv[1])).cells), *[name for name in {HEAVY!r} if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(ROOT / "search_spaces" / "paper.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["200"]
