"""Which request computes next: the one that is due first."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter

import numpy as np
import pytest

from ruo.model.signature import ROWS_PER_CALL
from ruo.wire import WireError
from server.scheduler import EarliestDue, Scheduler


class Calls:
    """A model that doubles one column and notes its calls; `go` holds them up, `pause` is how long each takes."""

    def __init__(self, scheduler, pause=0.0):
        self.scheduler, self.pause, self.go = scheduler, pause, threading.Event()
        self.values, self.rows = [], []
        self.go.set()

    def rows_per_call(self, arrays):
        return ROWS_PER_CALL

    def run(self, arrays):
        self.rows.append(len(arrays[0]))
        self.values.extend(arrays[0][:1, 0])
        self.go.wait(30)
        time.sleep(self.pause)
        return [2 * arrays[0]]

    def learn(self, pause):
        """Have the scheduler see one full call that takes so long."""
        before, self.pause = self.pause, pause
        self.scheduler.run(self, [np.zeros((ROWS_PER_CALL, 1))])
        self.pause = before
        self.values.clear()

    def start(self, value, rows):
        """A thread that scores so many rows of that value; returns when its request computes, or waits for its turn."""
        waiting = self.scheduler._turn._waiting
        before = len(self.values), len(waiting)
        thread = threading.Thread(target=lambda: self.scheduler.run(self, [np.full((rows, 1), value)]))
        thread.start()
        while (len(self.values), len(waiting)) == before:
            time.sleep(0.001)
        return thread


@pytest.fixture
def calls():
    """A model with a scheduler of its own."""
    return Calls(Scheduler())


def join(threads):
    for thread in threads:
        thread.join(30)


@pytest.mark.parametrize("rows", [0, 1, ROWS_PER_CALL - 1, ROWS_PER_CALL, ROWS_PER_CALL + 1, 3 * ROWS_PER_CALL])
def test_pieces_are_put_together(calls, rows):
    """However many rows there are, each call has at most ROWS_PER_CALL and every row comes back in its place."""
    array = np.arange(rows, dtype="f4").reshape(-1, 1)
    (outputs,), _ = calls.scheduler.run(calls, [array])
    np.testing.assert_array_equal(outputs, 2 * array)
    assert sum(calls.rows) == rows
    assert max(calls.rows) <= ROWS_PER_CALL


def test_a_request_ends_at_its_deadline(calls):
    """Also where it waits for nobody: before its next call, or before the first one."""
    calls.pause = 0.2
    for left_s, computed in ((0.3, 2), (-1, 0)):
        calls.rows.clear()
        with pytest.raises(WireError, match="in time") as caught:
            calls.scheduler.run(calls, [np.zeros((8 * ROWS_PER_CALL, 1))], time.monotonic() + left_s)
        assert caught.value.status == 503
        assert len(calls.rows) <= computed
    calls.scheduler.run(calls, [np.zeros((1, 1))], time.monotonic() + 9)


def test_answers_of_different_widths_are_an_error_of_the_request(calls, monkeypatch):
    """As of text that is padded to the longest of a call."""
    monkeypatch.setattr(calls, "run", lambda arrays: [np.zeros((len(arrays[0]), len(arrays[0])))])
    with pytest.raises(WireError, match="another width"):
        calls.scheduler.run(calls, [np.zeros((ROWS_PER_CALL + 1, 1))])


def test_one_call_at_a_time(calls):
    """Two requests never compute at the same time, since the threads of one call use all CPUs; waiting is counted."""
    calls.pause = 0.2
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        waits = list(pool.map(lambda _: calls.scheduler.run(calls, [np.ones((1, 1))])[1], range(3)))
    assert time.monotonic() - began >= 0.6
    assert min(waits) < 0.1 < max(waits)


@pytest.mark.parametrize(
    ("known_s", "requests", "wait_s", "later", "order"),
    [
        ([], [(1, 3 * ROWS_PER_CALL), (2, 3 * ROWS_PER_CALL)], 0, [], [1, 1, 1, 2, 2, 2]),
        ([1.0], [(1, 5 * ROWS_PER_CALL), (2, 1)], 0, [], [1, 2, 1, 1, 1, 1]),
        ([0.02], [(1, 1), (2, 3 * ROWS_PER_CALL)], 0.2, [(3, 1)], [1, 2, 2, 2, 3]),
        ([0.001, 0.5], [(1, 1), (2, 20 * ROWS_PER_CALL)], 0.5, [(3, 1)], [1, *20 * [2], 3]),
    ],
    ids=[
        "of one size they finish one after the other",
        "a short one waits for one call of a long one, since alone it would have finished first",
        "a long one comes before a short one that arrives when the long one would have finished alone",
        "a single slow call, which may have waited for a CPU, does not change how long a long one takes",
    ],
)
def test_who_would_have_finished_first_computes_next(calls, known_s, requests, wait_s, later, order):
    """Alone on the server; what is known are the seconds of full calls."""
    for seconds in known_s:
        calls.learn(seconds)
    calls.go.clear()
    threads = [calls.start(*request) for request in requests]
    time.sleep(wait_s)
    threads += [calls.start(*request) for request in later]
    calls.go.set()
    join(threads)
    assert calls.values == order


def test_a_new_model_is_not_delayed_by_the_requests_of_the_old_one(calls):
    """While requests of which the time is known wait for their turn, a model's first call comes before them."""
    new = Calls(calls.scheduler)
    calls.learn(1.0)
    new.values = calls.values
    calls.go.clear()
    threads = [calls.start(1, ROWS_PER_CALL), calls.start(2, 60 * ROWS_PER_CALL), new.start(3, 1)]
    calls.go.set()
    join(threads)
    assert calls.values[:3] == [1, 3, 2]


def test_the_turn_goes_on(calls):
    """Past a request that does not get it before its deadline, which is refused as 503, and past a model that fails."""
    calls.go.clear()
    busy = calls.start(1, 1)
    with pytest.raises(WireError, match="in time") as refusal:
        calls.scheduler.run(calls, [np.ones((1, 1))], deadline=time.monotonic() + 0.1)
    calls.go.set()
    join([busy])
    assert refusal.value.status == 503
    calls.run = None
    with pytest.raises(TypeError):
        calls.scheduler.run(calls, [np.ones((1, 1))])
    del calls.run
    assert calls.scheduler.run(calls, [np.ones((1, 1))], deadline=time.monotonic() + 10)


# --- the lock behind it


@pytest.fixture
def lock():
    """A lock that is taken."""
    lock = EarliestDue()
    assert lock.acquire(0.0)
    return lock


def begin(lock, due, done, name=""):
    """Have a thread wait for the lock, note itself in `done` when it has it, and release it."""

    def work():
        assert lock.acquire(due)
        done.append(name)
        lock.release()

    before = len(lock._waiting)
    thread = threading.Thread(target=work)
    thread.start()
    while len(lock._waiting) == before:
        time.sleep(0.001)
    return thread


@pytest.mark.parametrize("arrivals", [[(3.0, "c"), (1.0, "a"), (2.0, "b")], [(1.0, "c"), (1.0, "a"), (1.0, "b")]])
def test_the_earliest_due_is_the_next(lock, arrivals):
    """In whatever order they came; of those due at once the first to come."""
    done = []
    threads = [begin(lock, due, done, name) for due, name in arrivals]
    assert not done
    lock.release()
    join(threads)
    assert done == [name for _, name in sorted(arrivals, key=itemgetter(0))]
    assert lock.acquire(0.0)  # it is free now


def test_only_those_who_wait_are_due(lock):
    """Not one that has waited too long, which is told so."""
    assert not lock.acquire(1.0, time.monotonic() + 0.05)
    assert not lock.is_wanted_before(10.0)
    thread = begin(lock, 5.0, [])
    assert lock.is_wanted_before(10.0)
    assert not lock.is_wanted_before(5.0)
    lock.release()
    thread.join()
    assert lock.acquire(2.0)


@pytest.mark.timeout(30)
def test_no_release_is_lost():
    """Many threads with and without deadlines, and never two at once."""
    lock, inside, most = EarliestDue(), [], []

    def work(number):
        for _ in range(50):
            deadline = time.monotonic() + 0.0005 if number % 2 else float("inf")
            if lock.acquire(time.monotonic() + number / 100, deadline):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)
                lock.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert set(most) == {1}
    assert lock.acquire(0.0, time.monotonic() + 1)
