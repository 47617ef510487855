"""A driver connects to a cluster and disconnects from it."""

import subprocess
import sys

# A thread, as the mirror's, runs on while the driver disconnects: it releases Ray's objects in reference cycles, which
# the collector may find at any time.
DISCONNECTS = """
import gc, threading, time

from study.execution.cluster import connect, disconnect

connect(None, verbose=False)
import ray

references, disconnected = [ray.put(number) for number in range(400)], threading.Event()


class Cycle:
    def __init__(self, reference):
        self.itself, self.reference = self, reference


def release():
    while references and not disconnected.is_set():
        Cycle(references.pop())
        [[] for _ in range(200)]
        time.sleep(0.01)


gc.set_threshold(50, 1, 1)
thread = threading.Thread(target=release)
thread.start()
time.sleep(0.1)
disconnect()
assert references, "the thread had released everything before the driver disconnected"
disconnected.set()
thread.join()
gc.collect()
print("disconnected")
"""


def test_a_driver_survives_disconnecting_while_a_thread_releases_objects_of_ray() -> None:
    done = subprocess.run([sys.executable, "-c", DISCONNECTS], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["disconnected"]), done.stderr[-2000:]
