"""What both clients do, without the waiting.

A verb is a generator: it yields what has to be done, a call or a piece of blocking work, and is sent the
answer. `Client` drives it by calling, `AsyncClient` by awaiting; nothing else differs between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeAlias

from vitral import sizes
from vitral.errors import (
    FingerprintMismatchError,
    ImageError,
    ImageErrors,
    InvalidArgumentError,
    ModelNotFoundError,
    TooLargeError,
    VitralError,
)
from vitral.limits import MAX_ITEMS
from vitral.selection import WHOLE
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1.model_pb2 import ModelSpec
from vitral_client import argument, health, reply
from vitral_client.call import SERVICE, Call, Clock, Deadline, Job, Steps
from vitral_client.channel import Road
from vitral_client.extents import specs_at
from vitral_client.failure import LostError
from vitral_client.health import Health
from vitral_client.image import Content, Image, is_one, listed
from vitral_client.item_memory import Lending
from vitral_client.item_stream import Flow, Terms
from vitral_client.parts import Parts
from vitral_client.request import Request, Wish, split_name
from vitral_client.shared import Sharing

OnError: TypeAlias = Literal["raise", "return"]
Result: TypeAlias = reply.Result


@dataclass(frozen=True)
class Verbs:
    """The verbs of a client, and what it remembers between calls.

    Attributes:
        address: the server, for messages.
        timeout: seconds a call has where the caller does not say.
        sharing: shared memory for replies; None: all go through messages.
    """

    address: str
    timeout: float
    sharing: Sharing | None = None
    _specs: dict[tuple[str, str], ModelSpec] = field(default_factory=dict, repr=False)
    _known: dict[str, ModelSpec] = field(default_factory=dict, repr=False)

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
        parts = Parts(listed(images))
        deadline = self.deadline(timeout)
        every = yield from self.answers(parts, wish, lambda: deadline)
        failed = [result for result in every if isinstance(result, ImageError)]
        if single and failed and failed[0].cause == "too_large":
            raise TooLargeError(str(failed[0]))
        if failed and errors == "raise":
            raise failed[0] if single else ImageErrors(every)
        return every[0] if single else every

    def answers(self, parts: Parts, wish: Wish, clock: Clock) -> Steps[list[Result]]:
        """A result for each image, in as many requests as the limits demand, all of one fingerprint."""
        every: list[Result] = []
        most = MAX_ITEMS
        while (yield Job(parts.fill, parts.blocks)):
            wish, fitting = yield from self._plan(wish, parts, clock())
            request: Request = yield Job(
                partial(parts.take, wish, min(most, fitting), framed=self.sharing is None), parts.blocks
            )
            try:
                results, fingerprint = yield from self._exchange(request, wish, clock())
            except TooLargeError:
                if len(request.sent) < 2:
                    raise
                # The server's own limits may be lower, or the model another one than was known.
                most = len(request.sent) // 2
                yield Job(parts.back)
                continue
            every += results
            if not wish.fingerprint:
                wish = replace(wish, fingerprint=fingerprint)
        return every

    def pinned(self, parts: Parts, wish: Wish, clock: Clock) -> Steps[Wish | None]:
        """The wish, held to the fingerprint the model has now; None when there is nothing to send yet."""
        yield Job(parts.fill)
        if not parts.sendable:
            return None
        spec = yield from self._learn(wish.model, clock())
        return replace(wish, fingerprint=wish.fingerprint or spec.fingerprint)

    def flow(self, wish: Wish, terms: Terms, timeout: float | None) -> Steps[Flow]:
        """A stream held to the fingerprint the model has now; outputs named where need be."""
        deadline = self.deadline(timeout)
        spec = yield from self._learn(wish.model, deadline)
        named = bool(wish.outputs) or wish.selection == WHOLE
        outputs = wish.outputs if named else tuple(spec.default_outputs)
        wish = replace(wish, outputs=outputs, fingerprint=wish.fingerprint or spec.fingerprint)
        if self.sharing is None:
            return Flow(wish, spec, terms)
        size = yield from self._shared_bytes(wish, (), deadline)
        region = (yield from self.sharing.region(deadline)) if size else None
        return Flow(wish, spec, terms, Lending(region, size) if region is not None else None)

    def models(self, timeout: float | None = None) -> Steps[list[pb.ServedModel]]:
        """Every model of the server, the failed ones with their reason."""
        message = pb.ListModelsRequest().SerializeToString()
        deadline = self.deadline(timeout)
        answer: bytes = yield Call(f"{SERVICE}/ListModels", message, deadline, Road.PLAIN)
        return list(reply.message(pb.ListModelsResponse, answer).models)

    def model(self, model: str | None, timeout: float | None = None) -> Steps[pb.ServedModel]:
        """One model, by `NAME` or `NAME/VERSION`; None: the only one served."""
        name = argument.optional_text("model", model)
        return (yield from self._get_model(name, self.deadline(timeout), Road.PLAIN))

    def health(self, model: str | None, timeout: float | None = None) -> Steps[Health]:
        """What the server says of itself or of a model."""
        model = argument.optional_text("model", model)
        call = Call(health.CHECK, health.check_request(model), self.deadline(timeout), Road.PLAIN)
        try:
            answer: bytes = yield call
        except ModelNotFoundError:
            raise ModelNotFoundError(f"{self.address} has no model {model!r}") from None
        return health.check_response(answer)

    def deadline(self, timeout: float | None) -> Deadline:
        """The deadline this far from now; None: the client's timeout."""
        return Deadline.after(self.timeout if timeout is None else timeout)

    def _exchange(self, request: Request, wish: Wish, deadline: Deadline) -> Steps[tuple[list[Result], str]]:
        if not request.sent:
            return [request.failed[index] for index in sorted(request.failed)], ""
        try:
            parts = yield from self._ask(request, wish, deadline)
        except VitralError:
            # What is known may be of a model that is served no more.
            self._known.pop(wish.model, None)
            raise
        spec = yield from self._spec(parts.header, deadline)
        self._known[wish.model] = spec
        return reply.results(parts, request, wish, spec), parts.header.fingerprint

    def _ask(self, request: Request, wish: Wish, deadline: Deadline) -> Steps[reply.Reply[pb.EmbedResponse]]:
        if self.sharing is not None:
            each = yield from self._shared_bytes(wish, request.contents, deadline)
            shared = yield from self.sharing.ask(request, len(request.sent) * each, deadline)
            if shared is not None:
                return shared
        message: bytes = request.message or (yield Job(request.framed))
        answer = yield from _call(Call(f"{SERVICE}/Embed", message, deadline))
        return reply.parse(answer)

    def _shared_bytes(self, wish: Wish, contents: Sequence[Content], deadline: Deadline) -> Steps[int]:
        """Shared memory an image's outputs take at most; 0 where the server will refuse the wish."""
        spec = self._known.get(wish.model)
        if spec is None:
            spec = yield from self._learn(wish.model, deadline)
        named = {output.name for output in spec.outputs}
        outputs = wish.outputs or tuple(spec.default_outputs)
        if not named.issuperset(outputs):
            return 0
        pairs = [(name, wish.selection) for name in outputs]
        return max(sizes.shared_places(at, pairs)[1] for at in specs_at(spec, wish.size, contents))

    def _plan(self, wish: Wish, parts: Parts, deadline: Deadline) -> Steps[tuple[Wish, int]]:
        """The wish with its outputs named where it must be, and the most images whose reply fits."""
        images = parts.sendable
        # Rows and element types are asked for output by output: the defaults have to be known by name.
        named = bool(wish.outputs) or wish.selection == WHOLE
        if not images or (named and images == 1):
            return wish, images
        spec = self._known.get(wish.model)
        if spec is None:
            spec = yield from self._learn(wish.model, deadline)
        outputs = wish.outputs or tuple(spec.default_outputs)
        pairs = [(name, wish.selection) for name in outputs]
        fitting = min(sizes.most_images(at, pairs) for at in specs_at(spec, wish.size, parts.contents))
        return wish if named else replace(wish, outputs=outputs), fitting

    def _learn(self, model: str, deadline: Deadline) -> Steps[ModelSpec]:
        spec = (yield from self._get_model(model, deadline, Road.CHECKED)).spec
        if spec.fingerprint:  # a model that failed has none
            self._known[model] = self._specs[spec.name, spec.fingerprint] = spec
        return spec

    def _spec(self, header: pb.EmbedResponse, deadline: Deadline) -> Steps[ModelSpec]:
        key = (header.model, header.fingerprint)
        if key not in self._specs:
            which = f"{header.model}/{header.version}"
            spec = yield from self._learn(which, deadline)
            if spec.fingerprint != header.fingerprint:
                now, then = spec.fingerprint[:12], header.fingerprint[:12]
                raise FingerprintMismatchError(
                    f"model {which} answered with fingerprint {then} and now has {now}"
                )
        return self._specs[key]

    def _get_model(self, model: str, deadline: Deadline, road: Road) -> Steps[pb.ServedModel]:
        name, version = split_name(model)
        message = pb.GetModelRequest(model=name, version=version).SerializeToString()
        answer = yield from _call(Call(f"{SERVICE}/GetModel", message, deadline, road))
        return reply.message(pb.GetModelResponse, answer).model


def _call(call: Call) -> Steps[bytes]:
    try:
        answer: bytes = yield call
    except LostError:
        # gRPC repeats no call of whose reply a part had come. Asking twice harms nobody.
        answer = yield call
    return answer
