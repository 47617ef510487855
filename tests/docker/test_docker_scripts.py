"""The scripts in docker/, with replacements for ray and nvidia-smi first on their path."""

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


def test_the_scripts_are_valid_shell() -> None:
    for path in DOCKER.glob("*.sh"):
        shell = path.read_text().split("\n", 1)[0].rsplit(maxsplit=1)[-1].rsplit("/", 1)[-1].removeprefix("#!")
        subprocess.run([shell, "-n", str(path)], check=True)
        assert os.access(path, os.X_OK)


def test_secrets_are_created_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    for name in ("secrets.sh", ".env.example"):
        shutil.copy(DOCKER / name, tmp_path)
    subprocess.run([str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    secrets = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert secrets.keys() == read_compose()[1]["secrets"].keys()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in secrets.values())
    assert len(set(secrets.values())) == len(secrets)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "secrets").iterdir())
    owner = (tmp_path / "secrets" / "ray_token").stat().st_uid
    assert owner != 0
    assert f"STUDY_UID={owner}\n" in (tmp_path / ".env").read_text()
    subprocess.run([str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == secrets


class Programs:
    """A folder of replacements for programs that a script calls, first on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def write(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.folder}:{os.environ['PATH']}"
        values = {**os.environ, "WORKER_CPUS": "", "PATH": path, **environment}
        return subprocess.Popen(words, env=values, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_each_worker_gets_its_own_gpu_and_one_too_many_is_refused(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "bin")
    programs.write("nvidia-smi", "echo 0; echo 1")
    programs.write("nproc", "echo 8")
    programs.write("ray", 'echo "$CUDA_VISIBLE_DEVICES $*"; exec sleep 60')
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
    replacement = programs.start(str(DOCKER / "worker.sh"), "head:6379", GPU_LOCKS=str(tmp_path))
    assert replacement.stdout is not None
    assert replacement.stdout.readline() == "this worker has GPU 0 of 2\n"
    replacement.terminate()
    replacement.communicate(timeout=10)


def test_a_worker_on_a_machine_without_gpus_offers_none(tmp_path: Path) -> None:
    programs = Programs(tmp_path / "bin")
    programs.write("nvidia-smi", "exit 9")
    programs.write("ray", 'echo "$*"')
    output, _ = programs.start(str(DOCKER / "worker.sh"), "head:6379", WORKER_CPUS="3").communicate(timeout=10)
    assert output == "start --address=head:6379 --num-cpus=3 --num-gpus=0 --block\n"


@pytest.mark.parametrize("code", [0, 3])
def test_join_ends_with_the_exit_code_of_its_command_and_stops_its_node(tmp_path: Path, code: int) -> None:
    programs = Programs(tmp_path / "bin")
    programs.write("ray", f'echo "$*" > {tmp_path}/node; trap "echo left >> {tmp_path}/node; exit" TERM; '
                        "while :; do sleep 0.1; done")  # fmt: skip
    process = programs.start(str(DOCKER / "join.sh"), "head:6379", "sh", "-c", f"sleep 0.5; exit {code}")
    process.communicate(timeout=20)
    assert process.returncode == code
    assert (tmp_path / "node").read_text() == "start --address=head:6379 --num-cpus=0 --num-gpus=0 --block\nleft\n"


# Prints the signals that it has received, a second after the first one.
SIGNAL_PRINTER = """
import signal, time
received = []
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: received.append(signal.Signals(number).name))
print("ready", flush=True)
while not received:
    time.sleep(0.1)
time.sleep(1)
print(*received, flush=True)
raise SystemExit(7)
"""


@pytest.mark.parametrize("cause", ["SIGINT", "SIGTERM", "Ctrl-C"])
def test_join_passes_a_signal_on_once_and_waits_for_its_command(tmp_path: Path, cause: str) -> None:
    programs = Programs(tmp_path / "bin")
    programs.write("ray", f"while :; do sleep 0.1; echo there > {tmp_path}/node; done")
    ours, theirs = pty.openpty()
    command = [str(DOCKER / "join.sh"), "head:6379", sys.executable, "-c", SIGNAL_PRINTER]
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command] if cause == "Ctrl-C" else command,
        env={**os.environ, "PATH": f"{programs.folder}:{os.environ['PATH']}"}, stdin=theirs, stdout=theirs,
        stderr=theirs,
        # A shell cannot trap a signal that its parents ignore, as those of a background job do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    try:
        assert os.read(ours, 100).strip() == b"ready"
        if cause == "Ctrl-C":
            os.write(ours, b"\x03")
        else:
            process.send_signal(signal.Signals[cause])
        assert process.wait(timeout=20) == 7
        assert os.read(ours, 100).strip().removeprefix(b"^C").strip() == b"SIGTERM"
    finally:
        os.close(ours)
