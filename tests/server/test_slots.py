"""What workers know of each other."""

import pytest

from server.slots import Board


@pytest.fixture
def board():
    """A board with three ready workers, on lines 0, 1 and 2."""
    board = Board(lines=4)
    for pid in (10, 11, 12):
        line = board.take_line()
        board.set_pid(line, pid)
        board.set_ready(line, True)
    return board


def test_lines_are_given_out_once_and_again_after_clearing(board):
    """A line belongs to one worker until it is cleared."""
    assert board.take_line() == 3
    with pytest.raises(RuntimeError, match="WEB_CONCURRENCY"):
        board.take_line()
    board.clear(1)
    assert board.take_line() == 1
    assert not board.is_ready(1)


def test_ready_workers_and_their_processes_are_known(board):
    """Ready workers are counted, and a worker that has ended is neither ready nor known."""
    assert (board.ready(), board.pids()) == (3, [10, 11, 12])
    board.clear(0)
    assert (board.ready(), board.pids()) == (2, [11, 12])
    board.set_ready(1, False)
    assert board.ready() == 1


def test_the_least_loaded_takes_the_next(board):
    """With equal loads anybody may take a connection; then only those with the least."""
    assert all(board.is_least_loaded(line) for line in (0, 1, 2))
    board.add_load(0, 1)
    assert [board.is_least_loaded(line) for line in (0, 1, 2)] == [False, True, True]
    board.add_load(1, 2)
    board.add_load(2, 3)
    assert [board.is_least_loaded(line) for line in (0, 1, 2)] == [True, False, False]
    board.add_load(2, -3)
    assert board.is_least_loaded(2)


def test_a_worker_that_is_not_ready_gives_way(board):
    """An idle worker without a model leaves connections to busy ones with a model, unless none has one."""
    board.set_ready(0, False)
    for line in (1, 2):
        board.add_load(line, 5)
    assert not board.is_least_loaded(0)
    board.set_ready(1, False)
    board.set_ready(2, False)
    assert board.is_least_loaded(0)


def test_a_dead_workers_load_does_not_count(board):
    """What a worker was busy with when it died is forgotten with it."""
    for line in (0, 1):
        board.add_load(line, 2)
    board.clear(2)
    assert board.is_least_loaded(0)
