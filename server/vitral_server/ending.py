"""How a process of the server ends: when it is asked to, and although a thread may be stuck."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading


def asked() -> asyncio.Event:
    """Set when SIGTERM or SIGINT comes; for the loop that runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def end(code: int) -> int:
    """The exit code, when the process can end by itself; otherwise ends it here."""
    logging.shutdown()
    if _is_held_up():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # Python would wait for the thread; nothing is left to lose
    return code


def _is_held_up() -> bool:
    """Whether a thread, stuck in a picture or in a load, would keep the process alive."""
    others = [one for one in threading.enumerate() if one is not threading.main_thread() and not one.daemon]
    for thread in others:
        thread.join(timeout=0.2)
    return any(thread.is_alive() for thread in others)
