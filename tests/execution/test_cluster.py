"""A driver enters a cluster and leaves it."""

import subprocess
import sys

# A thread, as the mirror's, goes on while the driver leaves: what it drops holds Ray's objects in cycles, which the
# collector finds when it likes.
LEAVES = """
import gc, threading, time

from study.execution.cluster import connect, disconnect

connect(None, verbose=False)
import ray

references, left = [ray.put(number) for number in range(400)], threading.Event()


class Cycle:
    def __init__(self, held):
        self.itself, self.held = self, held


def drop():
    while references and not left.is_set():
        Cycle(references.pop())
        [[] for _ in range(200)]
        time.sleep(0.01)


gc.set_threshold(50, 1, 1)
thread = threading.Thread(target=drop)
thread.start()
time.sleep(0.1)
disconnect()
assert references, "the thread was done before the driver had left"
left.set()
thread.join()
gc.collect()
print("left the cluster")
"""


def test_a_driver_outlives_its_ray_whatever_its_threads_release() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["left the cluster"]), done.stderr[-2000:]
