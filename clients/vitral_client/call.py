"""What a verb asks its driver to do: unary calls and pieces of work, each with the deadline they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from vitral.errors import DeadlineError
from vitral_client import argument
from vitral_client.channel import Road

SERVICE = "/vitral.v1.EmbeddingService"

T = TypeVar("T")


@dataclass(frozen=True)
class Deadline:
    """A point in time that all calls of one verb share."""

    seconds: float
    ends: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline this far from now; refused unless it is a positive finite number."""
        seconds = argument.seconds(seconds)
        return cls(seconds=seconds, ends=time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds left; raises DeadlineError when there are none."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise DeadlineError(f"{self.seconds:g} s were over before the request was sent")
        return left


@dataclass(frozen=True)
class Call:
    """A unary call: bytes there, bytes back."""

    path: str
    message: bytes
    deadline: Deadline
    road: Road = Road.CHECKED


@dataclass(frozen=True)
class Job:
    """Work on images.

    Attributes:
        work: what is to be done.
        blocks: whether it takes long: it reads files, or encodes pictures.
    """

    work: Callable[[], Any]
    blocks: bool = True


Steps: TypeAlias = Generator[Call | Job, Any, T]
Clock: TypeAlias = Callable[[], Deadline]
"""The deadline of the next request."""
