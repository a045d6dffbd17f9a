"""The end of a worker in Gunicorn's master: an old worker goes when its successor is ready.

Gunicorn itself ends the old workers of a reload as soon as the new ones have been started, and starts a worker when one
has ended at --max-requests: their requests would fall to workers that still load the model.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import Any


def install(server: Any) -> None:
    """Have Gunicorn's master manage its workers in this way; called once, when it starts."""
    reap = server.reap_workers

    def reap_and_manage() -> None:
        reap()
        if (
            server.LISTENERS
        ):  # the server does not end; a reload waits for the old workers, and does only this meanwhile
            server.manage_workers()

    server.reap_workers, server.manage_workers = reap_and_manage, partial(_manage, server)


def _manage(server: Any) -> None:
    """Start the workers that are missing, and end as many old ones as others are ready."""
    workers = [worker for worker in server.WORKERS.values() if not worker.is_ending]
    workers.sort(key=lambda worker: (not worker.slots.is_retiring(worker.slot), worker.age))
    staying = sum(not worker.slots.is_retiring(worker.slot) for worker in workers)
    for _ in range(server.num_workers - staying):
        server.spawn_worker()
    ready = sum(worker.slots.is_ready(worker.slot) for worker in workers)
    for worker in workers[: max(0, len(workers) - min(staying, server.num_workers))]:
        is_ready = worker.slots.is_ready(worker.slot)
        if not is_ready or ready > server.num_workers:
            ready -= is_ready
            worker.is_ending = True
            worker.slots.set(worker.slot, "is_ready", 0)  # the others take new connections
            server.kill_worker(worker.pid, signal.SIGTERM)
