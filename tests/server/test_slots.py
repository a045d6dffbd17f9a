"""What workers know of each other."""

from types import SimpleNamespace

import pytest

from server.slots import WorkerSlots, manage_workers


@pytest.fixture
def slots():
    """Four slots, with ready workers in 0, 1 and 2."""
    slots = WorkerSlots(size=4)
    for pid in (10, 11, 12):
        slot = slots.take()
        slots.pid[slot] = pid
        slots.is_ready[slot] = 1
    return slots


def test_slots_are_given_out_once_and_again_after_clearing(slots):
    """A slot belongs to one worker until it is cleared; a worker that has ended is neither ready nor known."""
    assert (slots.ready(), slots.states()) == (3, [[10, 1, 0], [11, 1, 0], [12, 1, 0]])
    assert (slots.free(), slots.take(), slots.free()) == (1, 3, 0)
    slots.clear(1)
    assert (slots.ready(), slots.states()) == (2, [[10, 1, 0], [12, 1, 0]])
    assert slots.take() == 1
    assert not slots.is_ready[1]
    slots.is_ready[0] = 0
    assert (slots.ready(), slots.expected()) == (1, 4)
    slots.is_retiring[1] = 1
    assert (slots.ready(), slots.expected()) == (1, 3)


def test_the_least_loaded_takes_the_next(slots):
    """With equal loads anybody may take a connection; then only those with the least."""
    assert all(slots.is_least_loaded(slot) for slot in (0, 1, 2))
    slots.load[0] = 1
    assert [slots.is_least_loaded(slot) for slot in (0, 1, 2)] == [False, True, True]
    slots.load[1] = 2
    slots.load[2] = 3
    assert [slots.is_least_loaded(slot) for slot in (0, 1, 2)] == [True, False, False]
    slots.load[2] = 0
    assert slots.is_least_loaded(2)
    # an idle worker without a model, or one that has died, leaves connections to busy ones, unless none has a model
    slots.is_ready[0] = 0
    slots.clear(2)
    slots.load[1] = 5
    assert [slots.is_least_loaded(slot) for slot in (0, 1)] == [False, True]
    slots.is_ready[1] = 0
    assert slots.is_least_loaded(0)


def test_a_reload_of_more_workers_than_there_are_slots_goes_step_by_step(slots):
    """An error in Gunicorn's loop would end the whole server."""
    workers = {}

    def start(slot):
        workers[slot] = SimpleNamespace(slot=slot, pid=slot, is_ending=False)

    def kill(pid, number):
        slots.clear(pid)
        del workers[pid]

    server = SimpleNamespace(WORKERS=workers, num_workers=3, slots=slots, kill_worker=kill)
    server.spawn_worker = lambda: start(slots.take())
    for slot in range(3):
        slots.is_retiring[slot] = 1
        start(slot)
    for _ in range(9):
        manage_workers(server)
        slots.is_ready[list(workers)] = 1
    assert len(workers) == 3
    assert not slots.is_retiring.any()
