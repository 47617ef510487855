"""Tests that need a system package: all of them where it is installed, none of them unnoticed where it is not."""

import importlib.util
import shutil
import socket
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver

NEEDED = {
    "kubernetes": "kubernetes-validate is not installed (pip install kubernetes-validate==1.37.0)",
    "compose": "docker-compose is not installed (apt-get install docker-compose)",
    "chromium": "chromium or chromedriver is not installed (apt-get install chromium chromium-driver)",
    "postgresql": "initdb is not installed (apt-get install postgresql)",
    "namespaces": "a file system cannot be mounted in a namespace of one's own (root can, on Linux)",
}
LEFT_OUT = pytest.StashKey[dict[str, list[str]]]()


def has_chromium() -> bool:
    """Both the browser and the program that drives it are on the path."""
    return shutil.which("chromedriver") is not None and any(map(shutil.which, ("chromium", "chromium-browser")))


def has_postgresql() -> bool:
    """A server can be made; Debian keeps its programs off the path."""
    return shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def has_namespaces() -> bool:
    """A file system can be mounted that only some processes see."""
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def has_compose() -> bool:
    """Compose is on the path, by itself or as a part of docker."""
    if shutil.which("docker-compose") is not None:
        return True
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the machine has no package for, after -m and -k had their say."""
    present = {
        "kubernetes": importlib.util.find_spec("kubernetes_validate") is not None,
        "compose": has_compose(),
        "chromium": has_chromium(),
        "postgresql": has_postgresql(),
        "namespaces": has_namespaces(),
    }
    left_out: dict[str, list[str]] = {}
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        missing = [mark for mark in NEEDED if item.get_closest_marker(mark) and not present[mark]]
        for mark in missing:
            left_out.setdefault(mark, []).append(item.nodeid)
        (deselected if missing else kept).append(item)
    config.stash[LEFT_OUT] = left_out
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Name every test that was left out, count them, say why: below all other summaries, above the closing line."""
    yield
    for mark, names in config.stash.get(LEFT_OUT, {}).items():
        terminalreporter.section(f"left out: {len(names)} marked {mark}", yellow=True)
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
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
