"""What both clients do, without the waiting.

A verb is a generator: it yields what has to be done, a call or a piece of blocking work, and is sent the
answer. `Client` drives it by calling, `AsyncClient` by awaiting; nothing else differs between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from vitral.errors import (
    DeadlineError,
    FingerprintMismatchError,
    ImageError,
    ImageErrors,
    InvalidArgumentError,
    ModelNotFoundError,
    VitralError,
)
from vitral.results import Embedding
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.model_pb2 import ModelSpec
from vitral_client import argument, health, reply
from vitral_client.channel import Road
from vitral_client.health import Health
from vitral_client.image import Image, is_one, listed
from vitral_client.request import Request, Wish, build, split_name

SERVICE = "/vitral.v1.EmbeddingService"

T = TypeVar("T")
OnError: TypeAlias = Literal["raise", "return"]
Result: TypeAlias = Embedding | ImageError


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
    """Work that blocks: reading files, encoding pictures."""

    work: Callable[[], Any]


Steps: TypeAlias = Generator[Call | Job, Any, T]


@dataclass(frozen=True)
class Verbs:
    """The verbs of a client, and what it remembers between calls.

    Attributes:
        address: the server, for messages.
        timeout: seconds a call has where the caller does not say.
    """

    address: str
    timeout: float
    _specs: dict[tuple[str, str], ModelSpec] = field(default_factory=dict, repr=False)
    _defaults: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Checks the timeout."""
        Deadline.after(self.timeout)

    def embed(
        self, images: Image | Iterable[Image], wish: Wish, timeout: float | None, errors: OnError
    ) -> Steps[Result | list[Result]]:
        """One result for one image, a list for several."""
        if errors not in ("raise", "return"):
            raise InvalidArgumentError(f"errors is 'raise' or 'return', not {errors!r}")
        single = is_one(images)
        several = listed(images)
        deadline = self._deadline(timeout)
        wish = yield from self._named_outputs(wish, deadline)
        request: Request = yield Job(partial(build, several, wish))
        every = yield from self._exchange(request, wish, deadline)
        failed = [result for result in every if isinstance(result, ImageError)]
        if failed and errors == "raise":
            raise failed[0] if single else ImageErrors(every)
        return every[0] if single else every

    def models(self, timeout: float | None = None) -> Steps[list[pb.ServedModel]]:
        """Every model of the server, the failed ones with their reason."""
        message = pb.ListModelsRequest().SerializeToString()
        deadline = self._deadline(timeout)
        answer: bytes = yield Call(f"{SERVICE}/ListModels", message, deadline, Road.PLAIN)
        return list(reply.message(pb.ListModelsResponse, answer).models)

    def model(self, model: str | None, timeout: float | None = None) -> Steps[pb.ServedModel]:
        """One model, by `NAME` or `NAME/VERSION`; None: the only one served."""
        name = argument.optional_text("model", model)
        return (yield from self._get_model(name, self._deadline(timeout), Road.PLAIN))

    def health(self, model: str | None, timeout: float | None = None) -> Steps[Health]:
        """What the server says of itself or of a model."""
        model = argument.optional_text("model", model)
        call = Call(health.CHECK, health.check_request(model), self._deadline(timeout), Road.PLAIN)
        try:
            answer: bytes = yield call
        except ModelNotFoundError:
            raise ModelNotFoundError(f"{self.address} has no model {model!r}") from None
        return health.check_response(answer)

    def _exchange(self, request: Request, wish: Wish, deadline: Deadline) -> Steps[list[Result]]:
        if not request.sent:
            return [request.failed[index] for index in sorted(request.failed)]
        try:
            answer: bytes = yield Call(f"{SERVICE}/Embed", request.message, deadline)
        except VitralError:
            # The names may be those of a model that is served no more.
            self._defaults.pop(wish.model, None)
            raise
        parts = reply.parse(answer)
        spec = yield from self._spec(parts.header, deadline)
        return reply.results(parts, request, spec)

    def _named_outputs(self, wish: Wish, deadline: Deadline) -> Steps[Wish]:
        # An element type is asked for output by output, so that the defaults have to be known by name.
        if wish.outputs or wish.dtype == "float32":
            return wish
        if wish.model not in self._defaults:
            served = yield from self._get_model(wish.model, deadline, Road.CHECKED)
            self._defaults[wish.model] = tuple(served.spec.default_outputs)
        return replace(wish, outputs=self._defaults[wish.model])

    def _spec(self, header: pb.EmbedResponse, deadline: Deadline) -> Steps[ModelSpec]:
        key = (header.model, header.fingerprint)
        if key not in self._specs:
            which = f"{header.model}/{header.version}"
            served = yield from self._get_model(which, deadline, Road.CHECKED)
            if served.spec.fingerprint != header.fingerprint:
                now, then = served.spec.fingerprint[:12], header.fingerprint[:12]
                raise FingerprintMismatchError(
                    f"model {which} answered with fingerprint {then} and now has {now}"
                )
            self._specs[key] = served.spec
        return self._specs[key]

    def _get_model(self, model: str, deadline: Deadline, road: Road) -> Steps[pb.ServedModel]:
        name, version = split_name(model)
        message = pb.GetModelRequest(model=name, version=version).SerializeToString()
        answer: bytes = yield Call(f"{SERVICE}/GetModel", message, deadline, road)
        return reply.message(pb.GetModelResponse, answer).model

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self.timeout if timeout is None else timeout)
