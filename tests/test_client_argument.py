"""Arguments that are none are refused in one sentence, before anything is sent."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from vitral.errors import InvalidArgumentError, UnavailableError
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client import AsyncClient, Client, health
from vitral_client.argument import MAX_SECONDS
from vitral_client.call import Deadline
from vitral_client.request import wish

NOWHERE = "127.0.0.1:1"
IMAGES = [
    (None, "each a path, .* or Prepared, not builtins.NoneType"),
    (5, "not builtins.int"),
    (np.uint8(3), "not numpy.uint8"),
    ([None], "image 0: an image is a path, .* not builtins.NoneType"),
]
WISHES = [
    ("model", 3, r"model is a string, not 3 \(builtins.int\)"),
    ("model", 0, "model is a string, not 0"),
    ("model", b"tiny", "model is a string, not b'tiny'"),
    ("model", "\udcff", r"model is UTF-8 text, which '\\udcff' is not"),
    ("outputs", 3, "outputs is a string or several, not 3"),
    ("outputs", b"extra", "outputs is a string or several, not b'extra'"),
    ("outputs", ["extra", 3], "each of outputs is a string, not 3"),
    ("expect_fingerprint", 3, "expect_fingerprint is a string, not 3"),
    ("size", 5, r"size is \(height, width\), whole numbers from 1 to 4294967295, not 5"),
    ("size", "ab", "not 'ab'"),
    ("size", (224.0, 224), r"not \(224.0, 224\)"),
    ("size", (2**40, 224), r"not \(1099511627776, 224\)"),
    ("size", (0, 224), r"not \(0, 224\)"),
    ("size", (True, 224), r"not \(True, 224\)"),
    ("size", (1, 2, 3), r"not \(1, 2, 3\)"),
]


@pytest.mark.parametrize(("images", "message"), IMAGES)
async def test_what_is_no_image_is_refused(images: Any, message: str) -> None:
    with Client(NOWHERE) as client, pytest.raises(InvalidArgumentError, match=message):
        client.embed(images)
    async with AsyncClient(NOWHERE) as client:
        with pytest.raises(InvalidArgumentError, match=message):
            await client.embed(images)


@pytest.mark.parametrize(("name", "value", "message"), WISHES)
def test_a_wish_of_the_wrong_type_or_range_is_refused(name: str, value: Any, message: str) -> None:
    with Client(NOWHERE) as client, pytest.raises(InvalidArgumentError, match=message):
        client.embed(b"x", **{name: value})


def test_sizes_are_taken_from_any_whole_numbers() -> None:
    for size in ([224, 192], (np.int64(224), np.uint16(192)), np.array([224, 192])):
        assert wish(None, None, "float32", size, None).size == (224, 192)  # type: ignore[arg-type]


def test_names_of_models_are_strings() -> None:
    with Client(NOWHERE) as client:
        for ask in (client.model, client.health):
            with pytest.raises(InvalidArgumentError, match="model is a string, not 3"):
                ask(3)  # type: ignore[operator]


@pytest.mark.parametrize("cls", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("address", "message"),
    [(None, "address is a string, not None"), (5, "not 5"), ("\udcff:1", "address is UTF-8 text")],
)
def test_an_address_is_a_string(cls: Any, address: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        cls(address)


@pytest.mark.parametrize("seconds", [5, 5.0, np.float32(5), np.int64(5), np.float16(5), Fraction(5)])
def test_a_timeout_is_any_real_number(seconds: Any) -> None:
    deadline = Deadline.after(seconds)
    assert type(deadline.seconds) is float
    assert deadline.seconds == 5


@pytest.mark.parametrize(
    "seconds", [True, None, "5", 0, -1, math.nan, math.inf, np.float32("nan"), np.inf, 1j, -(10**400)]
)
def test_a_timeout_that_is_no_positive_number_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout is a positive number of seconds, not "):
        Client(NOWHERE, timeout=seconds)
    with Client(NOWHERE) as client, pytest.raises(InvalidArgumentError, match="positive number"):
        client.embed(b"x", timeout=seconds if seconds is not None else 0)


@pytest.mark.parametrize("seconds", [1e18, 10**400])
def test_a_huge_timeout_does_not_end_the_call_at_once(seconds: float) -> None:
    assert Deadline.after(seconds).left() <= MAX_SECONDS
    with Client(NOWHERE, timeout=seconds) as client, pytest.raises(UnavailableError):
        client.health()


@pytest.mark.parametrize("length", [1, 127, 128, 16_383, 16_384, 32_768, 3_000_000])
def test_a_health_check_is_framed_for_names_of_any_length(length: int) -> None:
    name = "n" * length
    # Field 1 of both messages is one string.
    assert health.check_request(name) == pb.GetModelRequest(model=name).SerializeToString()
