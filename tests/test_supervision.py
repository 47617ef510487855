"""A command as two processes: exit codes, last words, signals that arrive once, and an end that both share."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import psutil
import pytest
from places import ROOT
from ray_cluster import wait_until

# Runs the code in its first argument; where that dies, prints what it had reported and how it ended.
COMMAND = """
import os, signal, sys, time
from study.supervision import supervise

def work(tell):
    exec(sys.argv[1], {**globals(), "tell": tell, "arrived": []})
    return 3

def last_words(begun, death):
    print("last words:", begun, death.code, death.signal, death.asked, flush=True)
    return 75

sys.exit(supervise(work, last_words))
"""
# Prints the number of each signal that arrives, and ends after SIGUSR1.
PRINT_SIGNALS = """
def receive(number, frame):
    arrived.append(number)
    print(signal.Signals(number).name, flush=True)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH, signal.SIGUSR1):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, receive)
print(os.getpid(), flush=True)
while signal.SIGUSR1 not in arrived:
    time.sleep(0.01)
"""


# The tests themselves may run where signals are ignored, as under nohup or in the background of a script.
WITH_SIGNALS = ["env", "--default-signal=HUP,INT,QUIT,TERM"]


def start(
    code: str, *, wrapper: Sequence[str] = (), stdin: int | None = subprocess.DEVNULL, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [*WITH_SIGNALS, *wrapper, sys.executable, "-u", "-c", COMMAND, code]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run(code: str) -> tuple[int, list[str]]:
    """The exit code, and the lines that were printed."""
    process = start(code)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output.splitlines()


@pytest.mark.parametrize(
    ("code", "exits"),
    [
        ("", 3),
        ("tell('begun')", 3),
        ("sys.exit(2)", 2),
        ("os.fork() or time.sleep(0.2) or os._exit(9)", 3),
        ("import atexit; atexit.register(os._exit, 5)", 5),
        ("import atexit; atexit.register(os.kill, os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_an_end_that_the_worker_says_is_the_commands(code: str, exits: int) -> None:
    assert run(code) == (exits, [])


def test_an_error_is_shown_once_and_has_no_last_words() -> None:
    code, lines = run("tell('begun'); raise ValueError('wrong')")
    assert code == 1
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: wrong"
    assert len([line for line in lines if "ValueError: wrong" in line]) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os._exit(1)", "None 1 None False"),
        ("tell('begun'); os._exit(0)", "begun 0 None False"),
        ("tell('begun'); os.kill(os.getpid(), signal.SIGKILL)", "begun -9 SIGKILL False"),
        ("tell('begun'); os.kill(os.getpid(), signal.SIGSEGV)", "begun -11 SIGSEGV False"),
        ("tell('begun'); os.kill(os.getpid(), signal.SIGRTMIN + 1)", "begun -35 signal 35 False"),
        ("tell('begun'); os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", "begun -15 SIGTERM True"),
        ("tell('begun'); os.fork() or time.sleep(2) or os._exit(0); os._exit(1)", "begun 1 None False"),
    ],
)
def test_a_death_without_a_word_has_last_words(code: str, words: str) -> None:
    assert run(code) == (75, [f"last words: {words}"])


@pytest.fixture
def printer() -> Iterator[subprocess.Popen[str]]:
    """A command whose worker prints what arrives."""
    process = start(PRINT_SIGNALS)
    yield process
    process.kill()
    process.communicate()


def read_pid(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.parametrize("to_group", [False, True])
def test_what_the_command_or_its_group_is_sent_arrives_once(printer: subprocess.Popen[str], to_group: bool) -> None:
    worker = read_pid(printer)
    assert printer.stdout is not None
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGWINCH"):
        (os.killpg if to_group else os.kill)(printer.pid, signal.Signals[name])
        assert printer.stdout.readline() == f"{name}\n"
    os.kill(worker, signal.SIGUSR1)
    output, _ = printer.communicate(timeout=60)
    assert output == "SIGUSR1\n"
    assert printer.returncode == 3


def test_what_nohup_ignores_stays_ignored() -> None:
    process = start(PRINT_SIGNALS, wrapper=["nohup"])
    worker = read_pid(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "SIGINT\n"
    os.kill(worker, signal.SIGUSR1)
    assert process.communicate(timeout=60)[0] == "SIGUSR1\n"


def test_the_worker_ends_with_a_command_that_is_killed(printer: subprocess.Popen[str]) -> None:
    worker = psutil.Process(read_pid(printer))
    printer.kill()
    printer.wait()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, seconds=5)


class Terminal:
    """A terminal in which a shell with job control runs the command, and continues it when it was stopped."""

    def __init__(self, script: str) -> None:
        self.ours, theirs = pty.openpty()
        shell = ["setsid", "--ctty", "--wait", "bash", "--norc", "-m", "-c", script]
        command = [*WITH_SIGNALS, *shell, "bash", sys.executable, "-u", "-c", COMMAND, PRINT_SIGNALS]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.shown = ""

    def read_until(self, words: str) -> None:
        while words not in self.shown:
            self.shown += os.read(self.ours, 1000).decode().replace("\r", "")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    """A terminal that runs the test's script."""
    opened = Terminal(request.param)
    yield opened
    opened.close()


@pytest.mark.parametrize("terminal", ['stty tostop; "$@"; echo "code $?"'], indirect=True)
def test_ctrl_c_arrives_once_and_printing_stops_nothing(terminal: Terminal) -> None:
    terminal.read_until("\n")
    os.write(terminal.ours, b"\x03")
    terminal.read_until("SIGINT\n")
    os.kill(int(terminal.shown.split()[0]), signal.SIGUSR1)
    terminal.read_until("code 3\n")
    assert terminal.shown.count("SIGINT") == 1


@pytest.mark.parametrize("terminal", ['"$@"; echo "stopped $?"; read; fg; echo "code $?"'], indirect=True)
def test_ctrl_z_stops_both_until_the_shell_continues_them(terminal: Terminal) -> None:
    terminal.read_until("\n")
    worker = psutil.Process(int(terminal.shown.split()[0]))
    command = worker.parent()
    assert command is not None
    os.write(terminal.ours, b"\x1a")
    terminal.read_until(f"stopped {128 + signal.SIGTSTP}\n")
    assert {process.status() for process in (command, worker)} == {psutil.STATUS_STOPPED}
    os.write(terminal.ours, b"\n")
    wait_until(lambda: psutil.STATUS_STOPPED not in {process.status() for process in (command, worker)}, seconds=10)
    os.write(terminal.ours, b"\x03")
    terminal.read_until("SIGINT\n")
    worker.send_signal(signal.SIGUSR1)
    terminal.read_until("code 3\n")
    assert terminal.shown.count("SIGINT") == 1
