"""Whose turn it is: who is due first."""

import threading
import time

import pytest

from server.scheduler import Turns


@pytest.fixture
def turns():
    """Turns of which the first is taken."""
    turns = Turns()
    assert turns.take(0.0)
    return turns


def begin(turns, due, done, name=""):
    """Have a thread wait for a turn, note itself in `done` when it has it, and give it back."""

    def work():
        assert turns.take(due)
        done.append(name or due)
        turns.give()

    before = len(turns._waiting)
    thread = threading.Thread(target=work)
    thread.start()
    while len(turns._waiting) == before:
        time.sleep(0.001)
    return thread


def test_the_earliest_due_is_the_next(turns):
    """In whatever order they came."""
    done = []
    threads = [begin(turns, due, done) for due in (3.0, 1.0, 2.0)]
    assert not done
    turns.give()
    for thread in threads:
        thread.join()
    assert done == [1.0, 2.0, 3.0]
    assert turns.take(0.0)  # nobody has it now


def test_of_those_due_at_once_the_first_to_come_is_the_next(turns):
    """They keep their order."""
    done = []
    threads = [begin(turns, 1.0, done, name) for name in "cab"]
    turns.give()
    for thread in threads:
        thread.join()
    assert done == ["c", "a", "b"]


def test_whether_somebody_is_due_before(turns):
    """Only those who wait count."""
    assert not turns.is_wanted_before(10.0)
    thread = begin(turns, 5.0, [])
    assert turns.is_wanted_before(10.0)
    assert not turns.is_wanted_before(5.0)
    turns.give()
    thread.join()


def test_who_waits_too_long_is_out_of_the_line(turns):
    """It is told so, and the turn goes to others."""
    assert not turns.take(1.0, time.monotonic() + 0.05)
    assert not turns.is_wanted_before(10.0)
    turns.give()
    assert turns.take(2.0)


def test_no_turn_is_lost():
    """Many threads with and without deadlines, and never two at once."""
    turns, inside, most = Turns(), [], []

    def work(number):
        for _ in range(50):
            deadline = time.monotonic() + 0.0005 if number % 2 else float("inf")
            if turns.take(time.monotonic() + number / 100, deadline):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)
                turns.give()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(most) == {1}
    assert turns.take(0.0, time.monotonic() + 1)
