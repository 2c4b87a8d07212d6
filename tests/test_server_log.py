"""What the server writes to its log, and what of its libraries."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from vitral_server.log import configure


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.basicConfig(level=level, handlers=handlers, force=True)
    for name in ("vitral", "vitral_engine", "vitral_server"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def _events(capsys: pytest.CaptureFixture[str]) -> list[str]:
    for name in (
        "vitral_server.service",
        "vitral_engine.engine",
        "PIL.PngImagePlugin",
        "grpc._cython.cygrpc",
    ):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(level, "%s %s", name.partition(".")[0], logging.getLevelName(level))
    return [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


def test_the_debugging_of_libraries_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """It is written under a lock of grpc that another thread's record may wait for: both would hang."""
    configure("debug")
    assert _events(capsys) == [
        *(
            f"{name} {level}"
            for name in ("vitral_server", "vitral_engine")
            for level in ("DEBUG", "INFO", "WARNING")
        ),
        *(f"{name} {level}" for name in ("PIL", "grpc") for level in ("INFO", "WARNING")),
    ]


def test_a_level_above_info_holds_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning")
    assert _events(capsys) == [
        f"{name} WARNING" for name in ("vitral_server", "vitral_engine", "PIL", "grpc")
    ]
