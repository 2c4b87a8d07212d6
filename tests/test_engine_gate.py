"""Many together or one alone, and a thread that does what it is told."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vitral_engine.gate import Gate
from vitral_engine.hand import Hand


def test_whoever_is_alone_is_alone() -> None:
    gate, inside, alone = Gate(), [0], [0]
    seen: set[tuple[int, int]] = set()
    lock = threading.Lock()

    def note(counter: list[int], by: int) -> None:
        with lock:
            counter[0] += by
            seen.add((inside[0], alone[0]))

    def visit(number: int) -> None:
        for _ in range(100):
            with gate.alone() if number == 0 else gate.shared():
                note(alone if number == 0 else inside, 1)
                time.sleep(0)
                note(alone if number == 0 else inside, -1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(visit, range(6)))
    assert max(count for count, _ in seen) > 1  # the others were together
    assert (0, 1) in seen
    assert not any(one and count for count, one in seen)


def test_who_waits_to_be_alone_is_not_starved() -> None:
    gate, entered, done = Gate(), threading.Event(), threading.Event()

    def wait() -> None:
        with gate.alone():
            done.set()

    def late() -> None:
        with gate.shared():
            entered.set()

    with gate.shared():
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not gate._waiting:
            time.sleep(0.001)
        later = threading.Thread(target=late)
        later.start()
        assert not entered.wait(0.05)
        assert not done.is_set()
    assert done.wait(5)
    assert entered.wait(5)
    waiting.join(5)
    later.join(5)


def test_an_error_inside_leaves_the_gate_open() -> None:
    gate = Gate()
    for way in (gate.alone, gate.shared):
        with pytest.raises(RuntimeError), way():
            raise RuntimeError("inside")
    with gate.alone():
        pass
    with gate.shared():
        pass


def test_a_hand_works_in_one_thread_raises_here_and_ends_with_its_owner() -> None:
    hand, threads = Hand("a hand of this test"), set[int]()
    for _ in range(3):
        hand.do(lambda: threads.add(threading.get_ident()))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}

    def fail() -> None:
        raise RuntimeError("told to")

    with pytest.raises(RuntimeError, match="told to"):
        hand.do(fail)
    hand.do(lambda: None)
    [mine] = [thread for thread in threading.enumerate() if thread.name == "a hand of this test"]
    del hand
    gc.collect()
    mine.join(5)
    assert not mine.is_alive()
