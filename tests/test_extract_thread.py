"""A thread that works on when its waiter is interrupted is still waited for."""

from __future__ import annotations

import signal
import threading

import pytest

from vitral_extract.thread import Thread


def test_an_interrupted_wait_does_not_take_the_thread_for_one_that_has_ended() -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        assert go.wait(10)
        done.set()

    thread = Thread(work, name="test")
    thread.start()
    interrupt = (threading.main_thread().ident, signal.SIGINT)
    threading.Timer(0.1, signal.pthread_kill, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        thread.wait(10)
    assert not thread.wait(0.05)
    threading.Timer(0.1, go.set).start()
    assert thread.wait(10)
    assert done.is_set()


def test_what_ends_early_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def work() -> None:
        raise ValueError

    thread = Thread(work, name="test")
    thread.start()
    assert thread.wait(10)
