"""Whether another try follows a failed one, and after which pause; without a server."""

from types import SimpleNamespace

import pytest

from ruo.client.retry import (
    AbsentError,
    BrokenError,
    GoneError,
    OverloadedError,
    RefusedError,
    RequestError,
    Retry,
    SilentError,
    back_off,
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test sets."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("ruo.client.retry.time", clock)
    return clock


def tries(retry: Retry, error: RequestError, servers: int = 1) -> int:
    """How many tries there are where each ends in this error."""
    count = 1
    while retry.allows(error, servers) and count < 1000:
        count += 1
    return count


@pytest.mark.parametrize("kind", [AbsentError, BrokenError, OverloadedError])
@pytest.mark.parametrize("retries", [0, 1, 7])
def test_what_may_mend_is_tried_as_often_as_asked(kind: type[RequestError], retries: int) -> None:
    """There are `retries` tries after the first one; a refusal is final."""
    assert tries(Retry(retries, 1, True), kind("")) == 1 + retries
    assert tries(Retry(retries, 1, True), RefusedError("", 400), servers=3) == 1


@pytest.mark.parametrize("kind", [SilentError, GoneError])
@pytest.mark.parametrize(("repeats", "servers", "count"), [(0, 1, 1), (1, 1, 2), (1, 2, 2), (1, 4, 4), (0, 3, 3)])
def test_each_other_server_has_one_try(kind: type[RequestError], repeats: int, servers: int, count: int) -> None:
    """Each other server gets one try after a whole time-out, or where only another server can help."""
    assert tries(Retry(10, repeats, True), kind(""), servers) == count


def test_patience_counts_from_the_first_failure(clock: SimpleNamespace) -> None:
    """A request that fails late still has a minute for its other tries."""
    retry = Retry(10, 1, True)
    clock.now += 50
    assert retry.allows(BrokenError(""), 1)
    assert retry.until == clock.now + 60
    clock.now += 59
    assert retry.pause_s(BrokenError("")) is not None
    assert retry.pause_s(BrokenError("", wait_s=2)) is None
    clock.now += 2
    assert retry.pause_s(BrokenError("")) is None
    assert clock.now - retry.began == 111


@pytest.mark.parametrize(("has_answered", "seconds"), [(False, 3), (True, 60)])
def test_a_wrong_address_is_an_error_soon(clock: SimpleNamespace, has_answered: bool, seconds: int) -> None:
    """An address that never answered gets three seconds; a server that did answer may come back."""
    retry = Retry(10, 1, has_answered)
    assert retry.allows(AbsentError(""), 1)
    assert retry.until == clock.now + seconds


@pytest.mark.parametrize(("failures", "middle"), [(1, 0.1), (3, 0.4), (10, 5), (5000, 5)])
def test_pauses_double_up_to_a_limit(failures: int, middle: float) -> None:
    """Each pause varies by half, so that many clients do not come back at once."""
    pauses = [back_off(failures, None) for _ in range(200)]
    assert middle / 2 <= min(pauses) < max(pauses) <= 1.5 * middle


@pytest.mark.parametrize(("asked_s", "least", "most"), [(10.0, 10, 10), (3600.0, 30, 30), (-3.0, 0.05, 0.15)])
def test_a_pause_that_is_asked_for_is_made(asked_s: float, least: float, most: float) -> None:
    """Retry-After is honoured, up to half a minute; one that is negative, as where clocks differ, asks for nothing."""
    assert least <= back_off(1, asked_s) <= most
