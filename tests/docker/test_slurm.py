"""docker/slurm.sh with a real Ray: this machine is Slurm's only node, or both of two."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from compose_file import DOCKER

from study.plan.cell_results import cell_results
from study.plan.plan import read_plan
from study.storage import StudyFolder

pytestmark = [pytest.mark.slow]

SPACE = {
    "name": "small",
    "data": {"source": "builtin:reviews", "examples": 300, "max_length": 32},
    "fixed": {"epochs": 2, "batch_size": 32, "learning_rate": 5e-4, "log_every_examples": 64},
    "axes": {"model": ["tiny-bert"], "seed": [0]},
    "run": {"checkpoint_every_minutes": 0.001},
}
# srun runs the words after its options; the node's address is one that only this machine can reach.
SRUN = """#!/bin/sh
echo "$*" >>"$SRUN_LOG"
while [ "${1#--}" != "$1" ]; do shift; done
case "$*" in *get_node_ip_address*) echo 127.0.0.1 ;; *) exec "$@" ;; esac
"""


def start(folder: Path, *arguments: str, nodes: str = "here", **variables: str) -> subprocess.Popen[str]:
    """Run the script as Slurm would on this machine."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, script in {"srun": SRUN, "scontrol": f"#!/bin/sh\nprintf '{nodes}\\n'\n"}.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    (folder / "small.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    values = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    values |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "here",
        "SLURM_CPUS_ON_NODE": "2",
        "SRUN_LOG": str(folder / "srun.log"),
        # As sites have it: too long for Ray's sockets.
        "TMPDIR": str(tmpdir := folder / ("slurm." + "9" * 60)),
    } | variables
    tmpdir.mkdir(exist_ok=True)
    return subprocess.Popen(
        ["bash", str(DOCKER / "slurm.sh"), "--space", "small.yaml", *arguments], env=values, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def states(folder: Path) -> list[str]:
    study = StudyFolder(folder / "studies" / "small")
    plan = read_plan(study)
    assert plan is not None
    return [result.state for result in cell_results(study, plan)]


def test_a_job_trains_the_study_and_leaves_neither_processes_nor_its_token(tmp_path: Path) -> None:
    process = start(tmp_path)
    family: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while not (tokens := list((tmp_path / "studies").glob(".ray-token-*"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert tokens[0].stat().st_mode & 0o077 == 0
    while process.poll() is None and time.monotonic() < deadline:
        family = psutil.Process(process.pid).children(recursive=True) or family
        time.sleep(1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert states(tmp_path) == ["complete"]
    assert not list((tmp_path / "studies").glob(".ray-token-*"))
    assert not Path(f"/tmp/ray-{os.getpid()}").exists()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [member for member in alive if re.search("ray", member.name())]


def test_a_job_whose_time_is_over_saves_and_a_later_one_resumes(tmp_path: Path) -> None:
    process = start(tmp_path, "--set", "epochs=30")
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob("studies/small/trajectories/*/history.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "stopped by SIGTERM" in output
    (history,) = tmp_path.glob("studies/small/trajectories/*/history.jsonl")
    before = history.read_bytes()
    assert states(tmp_path) != ["complete"]
    process = start(tmp_path, "--set", "epochs=30")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert history.read_bytes().startswith(before)


def test_a_job_of_two_nodes_trains_on_both_and_its_programs_start_as_the_prefix_says(tmp_path: Path) -> None:
    """Each node has one core, so two trajectories train at once only if both have joined."""
    space = tmp_path / "two.yaml"
    axes = {"model": ["tiny-bert"], "seed": [0, 1]}
    space.write_text(yaml.safe_dump(SPACE | {"axes": axes, "fixed": {**SPACE["fixed"], "epochs": 20}}))  # type: ignore[dict-item]
    process = start(
        tmp_path, "--space", "two.yaml", nodes="here\\nthere", SLURM_CPUS_ON_NODE="1", PREFIX="env PREFIXED=yes",
        HEAD_IP="127.0.0.1",
    )  # fmt: skip
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert states(tmp_path) == ["complete"] * 2
    started = [line.split("  ")[1] for line in output.splitlines() if line.endswith("  started")]
    first_end = output.index("  done, ")
    assert len(started) == 2
    assert output.rindex("  started") < first_end
    steps = [line for line in (tmp_path / "srun.log").read_text().splitlines() if "ray start" in line]
    assert len(steps) == 2
    assert all("env PREFIXED=yes ray start" in step for step in steps)
    assert "--exclude=here" in steps[1]


def test_a_head_that_does_not_start_ends_the_job_with_a_sentence(tmp_path: Path) -> None:
    process = start(tmp_path, SLURM_CPUS_ON_NODE="many")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "Ray's head on here ended; what it printed stands above" in output
