"""Shared fixtures, and which tests run: those that need a system package are deselected, and listed, without it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Tests on a GPU run where Ray, MLflow and a browser's driver are missing, so these are imported where they are used.
if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

# Before torch and numpy are imported in a process that shares the machine with other test processes: with two threads
# each on two cores, two of them wait for one another, and a test of a gradient takes 100 to 250 s instead of 9 to 14.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", str(threads))

# Where tests start Ray, train whole studies or run benchmarks: minutes each on two cores.
STUDIES = ("tests/end_to_end/", "tests/benchmarks/", "tests/test_run.py", "tests/execution/")
NEEDED = {
    "kubernetes": "kubernetes-validate is not installed (pip install kubernetes-validate==1.37.0)",
    "compose": "docker-compose is not installed (apt-get install docker-compose)",
    "chromium": "chromium or chromedriver is not installed (apt-get install chromium chromium-driver)",
    "postgresql": "initdb is not installed (apt-get install postgresql)",
    "namespaces": "a file system cannot be mounted in a namespace of one's own (root can, on Linux)",
    "fuse": "a file system in user space cannot be mounted (root can, on Linux with /dev/fuse)",
    "gpu": "no GPU was asked for (make test-gpu), or torch finds none",
}
DESELECTED = pytest.StashKey[dict[str, list[str]]]()


def has_chromium() -> bool:
    """Whether both the browser and its driver are on the path."""
    return shutil.which("chromedriver") is not None and any(map(shutil.which, ("chromium", "chromium-browser")))


def has_postgresql() -> bool:
    """Whether PostgreSQL's programs are installed; Debian keeps them off the path."""
    return shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def has_namespaces() -> bool:
    """Whether a file system can be mounted that only some processes see."""
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def has_fuse() -> bool:
    """Whether a file system in user space can be mounted that only some processes see."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return False
    return has_namespaces()


def has_compose() -> bool:
    """Whether Compose is on the path, by itself or as a part of docker."""
    if shutil.which("docker-compose") is not None:
        return True
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def wants_gpu(config: pytest.Config) -> bool:
    """Whether -m asks for the tests on a GPU."""
    return "gpu" in config.option.markexpr and "not gpu" not in config.option.markexpr


def has_gpu() -> bool:
    """Whether torch finds a GPU."""
    import torch

    return torch.cuda.is_available()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Know the limit of a test's time where pytest-timeout, which enforces it, is not installed."""
    if not pluginmanager.hasplugin("timeout"):
        parser.addini("timeout", "seconds after which a test fails")


def pytest_configure(config: pytest.Config) -> None:
    """Hide all GPUs from tests that do not ask for one: they compare results of the CPU to the bit."""
    if not wants_gpu(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


LONG_FILES = (
    "tests/end_to_end/test_fault_injection.py",
    "tests/test_run.py",
    "tests/end_to_end/test_search_run.py",
    "tests/end_to_end/test_load.py",
    "tests/test_credentials.py",
)


@pytest.hookimpl(trylast=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of files that run whole studies."""
    if item.nodeid.split("::")[0].startswith(STUDIES):
        item.add_marker("studies")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests whose package is missing, among those that -m and -k select."""
    present = {
        "kubernetes": importlib.util.find_spec("kubernetes_validate") is not None,
        "compose": has_compose(),
        "chromium": has_chromium(),
        "postgresql": has_postgresql(),
        "namespaces": has_namespaces(),
        "fuse": has_fuse(),
        "gpu": wants_gpu(config) and has_gpu(),
    }
    names: dict[str, list[str]] = {}
    selected: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        missing = [mark for mark in NEEDED if item.get_closest_marker(mark) and not present[mark]]
        for mark in missing:
            names.setdefault(mark, []).append(item.nodeid)
        (deselected if missing else selected).append(item)
    config.stash[DESELECTED] = names
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist, which prints nothing itself
        config.workeroutput["deselected"] = names
    if deselected:
        config.hook.pytest_deselected(items=deselected)
    # Files whose tests run whole studies come first, so that processes side by side end at about the same time.
    items[:] = sorted(selected, key=lambda item: item.nodeid.split("::")[0] not in LONG_FILES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the names that a process of pytest-xdist has deselected; all of them deselect the same."""
    node.config.stash[DESELECTED] = getattr(node, "workeroutput", {}).get("deselected", {})


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """List the deselected tests, with the reason, below all other summaries and above the closing line."""
    yield
    for mark, names in config.stash.get(DESELECTED, {}).items():
        terminalreporter.section(f"deselected: {len(names)} marked {mark}", yellow=True)
        terminalreporter.write_line(NEEDED[mark])
        for name in names:
            terminalreporter.write_line(f"  {name}")


@pytest.fixture
def browser() -> Iterator[WebDriver]:
    """A Chromium without a window; only for tests that are marked so."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listened on a moment ago."""
    from servers import find_free_port

    return find_free_port()


@pytest.fixture(scope="session")
def empty_store() -> Path:
    """A sqlite file with MLflow's tables, to be copied."""
    from mlflow_store import create_empty_store

    return create_empty_store()
