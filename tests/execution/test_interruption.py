"""A signal that all processes of a job get is one request; a later one ends the study at once."""

import os
import signal
import time
from pathlib import Path

import pytest

from study.execution.interruption import SAME_WITHIN_SECONDS, InterruptHandler
from study.storage import StudyFolder


def test_what_arrives_twice_is_one_request_and_a_later_one_ends_the_study(tmp_path: Path) -> None:
    folder, told = StudyFolder(tmp_path), list[str]()
    with folder.run_lock() as lease, InterruptHandler(folder, lease, told.append) as interrupts:
        interrupts.saving = True
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.received == "SIGTERM"
        assert len(told) == 1
        time.sleep(SAME_WITHIN_SECONDS + 0.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
