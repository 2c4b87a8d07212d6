"""A process of callers for `benchmarks.workers`: one client, so one connection, shared by its threads."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import cast

import numpy as np

from vitral_client import Client

SIDE = 224
"""Height and width of the pictures, the model's own: nothing is resized."""


@dataclass(frozen=True)
class Order:
    """What to call: element type, threads of this process, and when, by `time.monotonic`."""

    dtype: str
    threads: int
    start: float
    seconds: float


@dataclass(frozen=True)
class Answer:
    """Latencies in seconds of the calls that ended in time, and processor seconds of this process."""

    latencies: list[float]
    cpu: float


def call(address: str, seed: int, pipe: Connection) -> None:
    """Does every order that comes through the pipe, until None does."""
    pictures = np.random.default_rng(seed).integers(0, 256, (16, SIDE, SIDE, 3), np.uint8)
    with Client(address, timeout=60) as client:
        client.embed(pictures[0])
        pipe.send("connected")
        while (order := pipe.recv()) is not None:
            pipe.send(_calls(client, pictures, cast(Order, order)))


def _calls(client: Client, pictures: np.ndarray, order: Order) -> Answer:
    latencies: list[float] = []
    until = order.start + order.seconds

    def caller(number: int) -> None:
        turn = number
        while (start := time.monotonic()) < until:
            client.embed(pictures[turn % len(pictures)], dtype=order.dtype)
            if start >= order.start and (end := time.monotonic()) <= until:
                latencies.append(end - start)
            turn += 1

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(order.threads)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, order.start - time.monotonic()))  # until then they warm up
    before = time.process_time()
    for thread in threads:
        thread.join()
    return Answer(latencies, time.process_time() - before)
