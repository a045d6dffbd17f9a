"""What workers know of each other."""

import pytest

from server.slots import WorkerSlots


@pytest.fixture
def slots():
    """Four slots, with ready workers in 0, 1 and 2."""
    slots = WorkerSlots(size=4)
    for pid in (10, 11, 12):
        slot = slots.take()
        slots.set(slot, "pid", pid)
        slots.set(slot, "is_ready", 1)
    return slots


def test_slots_are_given_out_once_and_again_after_clearing(slots):
    """A slot belongs to one worker until it is cleared."""
    assert slots.take() == 3
    with pytest.raises(RuntimeError, match="WEB_CONCURRENCY"):
        slots.take()
    slots.clear(1)
    assert slots.take() == 1
    assert not slots.is_ready(1)


def test_ready_workers_and_their_processes_are_known(slots):
    """Ready workers are counted, and a worker that has ended is neither ready nor known."""
    assert (slots.ready(), slots.pids()) == (3, [10, 11, 12])
    slots.clear(0)
    assert (slots.ready(), slots.pids()) == (2, [11, 12])
    slots.set(1, "is_ready", 0)
    assert (slots.ready(), slots.expected()) == (1, 2)
    slots.set(slots.take(), "is_retiring", 1)
    assert (slots.ready(), slots.expected()) == (1, 2)


def test_the_least_loaded_takes_the_next(slots):
    """With equal loads anybody may take a connection; then only those with the least."""
    assert all(slots.is_least_loaded(slot) for slot in (0, 1, 2))
    slots.set(0, "load", 1)
    assert [slots.is_least_loaded(slot) for slot in (0, 1, 2)] == [False, True, True]
    slots.set(1, "load", 2)
    slots.set(2, "load", 3)
    assert [slots.is_least_loaded(slot) for slot in (0, 1, 2)] == [True, False, False]
    slots.set(2, "load", 0)
    assert slots.is_least_loaded(2)


def test_a_worker_that_is_not_ready_gives_way(slots):
    """An idle worker without a model leaves connections to busy ones with a model, unless none has one."""
    slots.set(0, "is_ready", 0)
    for slot in (1, 2):
        slots.set(slot, "load", 5)
    assert not slots.is_least_loaded(0)
    slots.set(1, "is_ready", 0)
    slots.set(2, "is_ready", 0)
    assert slots.is_least_loaded(0)


def test_a_dead_workers_load_does_not_count(slots):
    """What a worker was busy with when it died is forgotten with it."""
    for slot in (0, 1):
        slots.set(slot, "load", 2)
    slots.clear(2)
    assert slots.is_least_loaded(0)
