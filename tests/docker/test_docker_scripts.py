"""Do the scripts in docker/ do what they say? Stand-ins for Ray and for the GPUs' tool are first on their path."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from compose_file import DOCKER, read_compose


def test_scripts_are_shell() -> None:
    for path in DOCKER.glob("*.sh"):
        shell = path.read_text().split("\n", 1)[0].rsplit(maxsplit=1)[-1].rsplit("/", 1)[-1].removeprefix("#!")
        subprocess.run([shell, "-n", str(path)], check=True)
        assert os.access(path, os.X_OK)


def test_secrets_are_made_once_and_for_their_owner(tmp_path: Path) -> None:
    for name in ("secrets.sh", ".env.example"):
        shutil.copy(DOCKER / name, tmp_path)
    subprocess.run([str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert made.keys() == read_compose()[1]["secrets"].keys()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in made.values())
    assert len(set(made.values())) == len(made)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "secrets").iterdir())
    owner = (tmp_path / "secrets" / "ray_token").stat().st_uid
    assert owner != 0
    assert f"STUDY_UID={owner}\n" in (tmp_path / ".env").read_text()
    subprocess.run([str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


class Programs:
    """A folder of stand-ins for programs that a script calls, first on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def add(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.folder}:{os.environ['PATH']}"
        values = {**os.environ, "WORKER_CPUS": "", "PATH": path, **environment}
        return subprocess.Popen(words, env=values, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_each_worker_takes_a_gpu_of_its_own_and_one_too_many_is_told(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("nvidia-smi", "echo 0; echo 1")
    programs.add("nproc", "echo 8")
    programs.add("ray", 'echo "$CUDA_VISIBLE_DEVICES $*"; exec sleep 60')
    started, lines = [], []
    for _ in range(2):
        worker = programs.start(str(DOCKER / "worker.sh"), "head:6379", "--x=1", GPU_LOCKS=str(tmp_path))
        started.append(worker)
        assert worker.stdout is not None
        assert worker.stdout.readline().startswith("this worker has GPU")
        lines.append(worker.stdout.readline())
    try:
        third = programs.start(str(DOCKER / "worker.sh"), "head:6379", GPU_LOCKS=str(tmp_path))
        output, _ = third.communicate(timeout=10)
        assert third.returncode == 1
        assert "scale to 2 workers" in output
    finally:
        for worker in started:
            worker.terminate()
            worker.communicate(timeout=10)
    command = "start --address=head:6379 --num-cpus=4 --num-gpus=1 --block --x=1"
    assert lines == [f"0 {command}\n", f"1 {command}\n"]
    freed = programs.start(str(DOCKER / "worker.sh"), "head:6379", GPU_LOCKS=str(tmp_path))
    assert freed.stdout is not None
    assert freed.stdout.readline() == "this worker has GPU 0 of 2\n"
    freed.terminate()
    freed.communicate(timeout=10)


def test_a_worker_without_a_gpu_offers_none(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("nvidia-smi", "exit 9")
    programs.add("ray", 'echo "$*"')
    output, _ = programs.start(str(DOCKER / "worker.sh"), "head:6379", WORKER_CPUS="3").communicate(timeout=10)
    assert output == "start --address=head:6379 --num-cpus=3 --num-gpus=0 --block\n"


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_joined_ends_with_its_own_exit_code_and_takes_its_node_along(tmp_path: Path, code: int) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("ray", f'echo "$*" > {tmp_path}/node; trap "echo left >> {tmp_path}/node; exit" TERM; '
                        "while :; do sleep 0.1; done")  # fmt: skip
    process = programs.start(str(DOCKER / "join.sh"), "head:6379", "sh", "-c", f"sleep 0.5; exit {code}")
    process.communicate(timeout=20)
    assert process.returncode == code
    assert (tmp_path / "node").read_text() == "start --address=head:6379 --num-cpus=0 --num-gpus=0 --block\nleft\n"


# Says which signals it has got, a second after the first.
COUNTS = """
import signal, time
got = []
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: got.append(signal.Signals(number).name))
print("ready", flush=True)
while not got:
    time.sleep(0.1)
time.sleep(1)
print(*got, flush=True)
raise SystemExit(7)
"""


@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM", "Ctrl-C"])
def test_a_signal_reaches_the_command_once_which_may_take_its_time(tmp_path: Path, by: str) -> None:
    programs = Programs(tmp_path / "bin")
    programs.add("ray", f"while :; do sleep 0.1; echo there > {tmp_path}/node; done")
    ours, theirs = pty.openpty()
    command = [str(DOCKER / "join.sh"), "head:6379", sys.executable, "-c", COUNTS]
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command] if by == "Ctrl-C" else command,
        env={**os.environ, "PATH": f"{programs.folder}:{os.environ['PATH']}"}, stdin=theirs, stdout=theirs,
        stderr=theirs,
        # A shell cannot trap what its parents ignore, as those of a job in the background do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    try:
        assert os.read(ours, 100).strip() == b"ready"
        if by == "Ctrl-C":
            os.write(ours, b"\x03")
        else:
            process.send_signal(signal.Signals[by])
        assert process.wait(timeout=20) == 7
        assert os.read(ours, 100).strip().removeprefix(b"^C").strip() == b"SIGTERM"
    finally:
        os.close(ours)
