"""The memory a client shares: what is lent, what comes back, and what never does."""

from __future__ import annotations

import numpy as np
import pytest

from vitral.errors import (
    CancelledError,
    DeadlineError,
    QueueFullError,
    RegionError,
    ServerError,
    UnavailableError,
)
from vitral_client import shared
from vitral_client.call import Call, Deadline
from vitral_client.failure import LostError
from vitral_client.image import Pixels
from vitral_client.memory import Region
from vitral_client.request import Request, Wish


@pytest.mark.parametrize(("error", "free"), [(MemoryError("none"), True), (GeneratorExit(), False)])
def test_what_is_still_being_copied_is_never_lent_again(error: BaseException, free: bool) -> None:
    region = Region(1 << 16)
    lent, sent = region.lend(5000), region.lend(3072)
    assert lent is not None
    assert sent is not None
    request = Request(b"", (0,), {}, [Pixels(np.zeros((32, 32, 3), np.uint8))], Wish())
    steps = shared._framed(request, sent, lent)
    next(steps)
    with pytest.raises(type(error)):
        steps.throw(error)
    assert (region.lend(region.size - 4096) is not None) is free
    assert (region.lost == lent.size + sent.size) is not free
    region.close()


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (QueueFullError("full"), True),
        (RegionError("unknown"), True),
        (UnavailableError("draining"), True),
        (LostError("broken"), False),
        (DeadlineError("late"), False),
        (CancelledError("left"), False),
        (KeyboardInterrupt(), False),
        (GeneratorExit(), False),
    ],
)
def test_memory_of_a_call_that_may_still_be_written_is_never_lent_again(
    error: BaseException, free: bool
) -> None:
    region = Region(1 << 16)
    lent = region.lend(5000)
    assert lent is not None
    steps = shared._exchange(Call("/path", b"", Deadline.after(1)), lent)
    next(steps)
    with pytest.raises(type(error)):
        steps.throw(error)
    again = region.lend(5000)
    assert again is not None
    assert (again.offset == lent.offset) is free
    assert (region.lost == lent.size) is not free
    region.close()


def test_ranges_that_came_back_are_one_again() -> None:
    region = Region(1 << 16)
    most = region.size - 4096
    ranges = [region.lend(size) for size in (100, 6000, 64, 3000)]
    assert [one.size for one in ranges if one] == [128, 6016, 64, 3008]
    assert region.lend(most) is None
    for place in (2, 0, 3, 1):
        lent = ranges[place]
        assert lent is not None
        lent.give_back()
    whole = region.lend(most)
    assert whole is not None
    assert whole.size == most
    region.close()


def test_a_reply_that_points_elsewhere_is_the_servers_fault() -> None:
    region = Region(1 << 16)
    lent = region.lend(128)
    assert lent is not None
    region.name = "r"
    lent.settle()
    good = lent.named
    assert lent.read(good).nbytes == 128
    for wrong in ({"region": "s"}, {"offset": good.offset - 64}, {"size": 192}):
        where = type(good)(**({"region": "r", "offset": good.offset, "size": 128} | wrong))
        with pytest.raises(ServerError, match="the reply points to bytes"):
            lent.read(where)
    region.close()
