"""One table of errors, both ways."""

from __future__ import annotations

import inspect
import pickle

import grpc
import pytest

from vitral import errors


@pytest.mark.parametrize("cls", errors.ON_THE_WIRE)
def test_every_error_on_the_wire_comes_back_as_itself(cls: type[errors.VitralError]) -> None:
    pairs = dict(errors.trailers(cls("3 of 4")))
    back = errors.from_status(cls.code, "3 of 4", pairs[errors.REASON_KEY])
    assert type(back) is cls
    assert str(back) == "3 of 4"


def test_reasons_are_unique_and_plain() -> None:
    every = [
        cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.VitralError)
    ]
    reasons = [cls.reason for cls in every]
    assert len(reasons) == len(set(reasons))
    assert all(reason.isascii() and reason == reason.lower() for reason in reasons)
    assert set(errors.ON_THE_WIRE) <= set(every)


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgumentError),
        (grpc.StatusCode.NOT_FOUND, errors.ModelNotFoundError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.TooLargeError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineError),
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.CANCELLED, errors.CancelledError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnsupportedError),
        (grpc.StatusCode.INTERNAL, errors.ServerError),
        (grpc.StatusCode.DATA_LOSS, errors.ServerError),
    ],
)
def test_without_a_reason_the_code_decides(code: grpc.StatusCode, cls: type[errors.VitralError]) -> None:
    assert type(errors.from_status(code, "m")) is cls
    assert type(errors.from_status(code, "m", "a reason of a newer server")) is cls


def test_every_exhaustion_says_whether_to_retry() -> None:
    full = [cls for cls in errors.ON_THE_WIRE if cls.code is grpc.StatusCode.RESOURCE_EXHAUSTED]
    pushback = {cls: dict(errors.trailers(cls(""))).get(errors.PUSHBACK_KEY) for cls in full}
    assert pushback == {errors.QueueFullError: "50", errors.TooLargeError: "-1"}
    assert errors.PUSHBACK_KEY not in dict(errors.trailers(errors.InvalidArgumentError("")))


def test_errors_are_what_python_expects_of_them() -> None:
    assert issubclass(errors.InvalidArgumentError, ValueError)
    assert issubclass(errors.DeadlineError, TimeoutError)
    assert issubclass(errors.UnavailableError, ConnectionError)
    assert issubclass(errors.ModelNotFoundError, LookupError)


def test_a_group_names_the_first_three_and_counts_the_rest() -> None:
    failed = [errors.ImageError(f"bad {index}", cause="truncated", index=index) for index in range(5)]
    group = errors.ImageErrors(["fine", *failed])
    assert str(group) == "5 of 6 images failed: [1] bad 0; [2] bad 1; [3] bad 2 and 2 more"
    assert group.results[0] == "fine"
    assert list(group.errors) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "error",
    [
        errors.DeadlineError("30 s"),
        errors.ImageError("bad", cause="truncated", index=3),
        errors.ImageErrors(["fine", errors.ImageError("bad", cause="mode", index=1)]),
    ],
)
def test_errors_survive_pickling(error: errors.VitralError) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "cause", None) == getattr(error, "cause", None)
    assert getattr(back, "index", None) == getattr(error, "index", None)
