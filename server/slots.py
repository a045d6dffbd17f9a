"""The workers of one server: who is ready, how busy each one is, and when an old one ends.

The slots are a page of shared memory, made in Gunicorn's master before it forks. Every worker writes to its own slot only,
so no lock is needed; the master clears the slot of a worker that has ended.
"""

import mmap
import signal
from typing import Any

import numpy as np


class WorkerSlots:
    """A slot for every worker: its process id, whether its model is ready, and its number of busy connections.

    A worker that has done its share of requests, or is older than a reload, is retiring: it serves until its successor
    is ready.
    """

    def __init__(self, size: int = 128) -> None:
        self._slots = np.frombuffer(mmap.mmap(-1, size * 20), np.dtype("i4")).reshape(5, size)
        self._is_taken, self.pid, self.is_ready, self.is_retiring, self.load = self._slots

    def free(self) -> int:
        """How many workers may be started."""
        return int((self._is_taken == 0).sum())

    def take(self) -> int:
        """A free slot, for a worker that is about to be forked."""
        slot = int(self._is_taken.argmin())
        self._is_taken[slot] = 1
        return slot

    def clear(self, slot: int) -> None:
        """Forget a worker that has ended."""
        self._slots[:, slot] = 0

    def ready(self) -> int:
        """How many workers are ready."""
        return int(self.is_ready.sum())

    def expected(self) -> int:
        """How many workers there are when all that were started are ready."""
        return max(1, int((self._is_taken > self.is_retiring).sum()))  # 1 without Gunicorn

    def states(self) -> list[list[int]]:
        """The process id of each worker that has started, whether it is ready, and its busy connections."""
        states: list[list[int]] = np.stack([self.pid, self.is_ready, self.load], 1)[self.pid > 0].tolist()
        return states

    def is_least_loaded(self, slot: int) -> bool:
        """Whether no ready worker is less busy than this one; a worker that is not ready gives way to every ready one."""
        loads = self.load[self.is_ready == 1]
        return not len(loads) or bool(self.is_ready[slot] and self.load[slot] <= loads.min())


def manage_workers(server: Any) -> None:
    """Start the workers that are missing, and end as many retiring or needless ones as others are ready.

    By itself Gunicorn's master ends the old workers of a reload as soon as the new ones have been started, and starts a
    worker when one has ended at --max-requests: their requests would fall to workers that still load the model.
    """
    slots, workers = server.slots, [worker for worker in server.WORKERS.values() if not worker.is_ending]
    # those that retire come first, the oldest of them first of all, as in WORKERS; `age` says nothing after a reload
    workers.sort(key=lambda worker: not slots.is_retiring[worker.slot])
    staying = sum(not slots.is_retiring[worker.slot] for worker in workers)
    for _ in range(min(server.num_workers - staying, slots.free())):
        server.spawn_worker()
    ready = sum(slots.is_ready[worker.slot] for worker in workers)
    for worker in workers[: max(0, len(workers) - min(staying, server.num_workers))]:
        is_ready = slots.is_ready[worker.slot]
        if not is_ready or ready > server.num_workers:
            ready -= is_ready
            worker.is_ending = True
            if slots.is_retiring[worker.slot]:
                slots.is_ready[worker.slot] = 0  # the others take new connections
            server.kill_worker(worker.pid, signal.SIGTERM)
