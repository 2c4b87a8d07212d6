"""The client for asyncio."""

# ruff: noqa: ASYNC109  (the signatures are those of the client that blocks)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, overload

import grpc

from vitral.errors import ImageError
from vitral.results import Embedding
from vitral.v1.embedding_service_pb2 import ServedModel
from vitral_client.aio_driver import Driver
from vitral_client.aio_streams import AsyncStreams
from vitral_client.channel import DEFAULT_ADDRESS
from vitral_client.choice import View, choice
from vitral_client.health import Health
from vitral_client.image import Image
from vitral_client.request import Wish, wish
from vitral_client.shared import Transport, sharing
from vitral_client.steps import OnError, Result, Verbs


class AsyncClient(AsyncStreams):
    """Images in, patch-embedding tensors out, for asyncio. A client belongs to one event loop.

    Args:
        address: `host:port`, or several joined by commas, which share the calls.
        timeout: seconds a call has where it does not say.
        credentials: for TLS; without them the connection is plain.
        transport: how results come: `grpc`, in messages; `shm`, through memory shared with a server on the
            same machine; `auto`, the latter where it can be had. Results then are views of shared memory,
            which the caller may keep; where so much is kept that none is free, further ones come in messages.

    Raises:
        InvalidArgumentError: the address, the timeout or the transport is none, or the transport is `shm` and
            the address not that of one server on this machine.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        transport: Transport = "grpc",
    ) -> None:
        self._sharing = sharing(transport, address)
        self._verbs = Verbs(address, timeout, self._sharing)
        self._driver = Driver(address, credentials)

    @overload
    async def embed(  # type: ignore[overload-overlap]  # a str is iterable, and one image
        self,
        images: Image,
        *,
        model: str | None = ...,
        outputs: str | Sequence[str] | None = ...,
        view: View | None = ...,
        patches: Sequence[int] | None = ...,
        rect: tuple[int, int, int, int] | None = ...,
        l2_normalize: bool = ...,
        dtype: str = ...,
        size: tuple[int, int] | None = ...,
        timeout: float | None = ...,
        errors: Literal["raise"] = ...,
        expect_fingerprint: str | None = ...,
    ) -> Embedding: ...
    @overload
    async def embed(  # type: ignore[overload-overlap]  # a str is iterable, and one image
        self,
        images: Image,
        *,
        model: str | None = ...,
        outputs: str | Sequence[str] | None = ...,
        view: View | None = ...,
        patches: Sequence[int] | None = ...,
        rect: tuple[int, int, int, int] | None = ...,
        l2_normalize: bool = ...,
        dtype: str = ...,
        size: tuple[int, int] | None = ...,
        timeout: float | None = ...,
        errors: Literal["return"],
        expect_fingerprint: str | None = ...,
    ) -> Embedding | ImageError: ...
    @overload
    async def embed(
        self,
        images: Iterable[Image],
        *,
        model: str | None = ...,
        outputs: str | Sequence[str] | None = ...,
        view: View | None = ...,
        patches: Sequence[int] | None = ...,
        rect: tuple[int, int, int, int] | None = ...,
        l2_normalize: bool = ...,
        dtype: str = ...,
        size: tuple[int, int] | None = ...,
        timeout: float | None = ...,
        errors: Literal["raise"] = ...,
        expect_fingerprint: str | None = ...,
    ) -> list[Embedding]: ...
    @overload
    async def embed(
        self,
        images: Iterable[Image],
        *,
        model: str | None = ...,
        outputs: str | Sequence[str] | None = ...,
        view: View | None = ...,
        patches: Sequence[int] | None = ...,
        rect: tuple[int, int, int, int] | None = ...,
        l2_normalize: bool = ...,
        dtype: str = ...,
        size: tuple[int, int] | None = ...,
        timeout: float | None = ...,
        errors: Literal["return"],
        expect_fingerprint: str | None = ...,
    ) -> list[Embedding | ImageError]: ...
    async def embed(
        self,
        images: Image | Iterable[Image],
        *,
        model: str | None = None,
        outputs: str | Sequence[str] | None = None,
        view: View | None = None,
        patches: Sequence[int] | None = None,
        rect: tuple[int, int, int, int] | None = None,
        l2_normalize: bool = False,
        dtype: str = "float32",
        size: tuple[int, int] | None = None,
        timeout: float | None = None,
        errors: OnError = "raise",
        expect_fingerprint: str | None = None,
    ) -> Any:
        """Embeds one image, or several: in one request, or in as many as the limit of a message demands.

        Args:
            images: one image or several; an image is a path, the bytes of an image file, a uint8 array
                (H, W, 3) of any size, an array of a model's own channels (contract raw-scale), a PIL image,
                or `Prepared`, a row of the model's own input.
            model: `NAME` or `NAME/VERSION`; None: the only model served.
            outputs: names of the outputs; None: the model's default outputs.
            view: part of every output that is sent: `cls`, `patches`, `registers` or `mean`, that of the
                patches; None: the whole tensor.
            patches: indices of the patches that are sent, row by row from 0 on.
            rect: the patches that are sent, as (row, column, height, width) in the grid of patches.
            l2_normalize: whether every row, a mean too, is scaled to unit length.
            dtype: element type on the wire: `float32`, `float16`, `bfloat16`, which arrives widened to
                float32, or `int8` with a scale for each row, see `Embedding.scales`.
            size: height and width, for models of dynamic size.
            timeout: seconds this call has, all its requests together; None: the client's.
            errors: `raise` when an image fails, or `return` the errors in the place of the results.
            expect_fingerprint: refuse to embed with a model of another fingerprint.

        Returns:
            One `Embedding` for one image, a list in the order of the images for several. Its arrays have
            no batch axis; they are read-only views of the reply, or of shared memory, and keep it.

        Raises:
            ImageError: the one image failed.
            ImageErrors: some of several images failed; it holds the results of the others.
            InvalidArgumentError: the request or an image is not valid.
            VitralError: any other way a call can end: see `vitral.errors`.
        """
        chosen = choice(view, patches, rect, dtype, l2_normalize=l2_normalize)
        wanted: Wish = wish(model, outputs, chosen, size, expect_fingerprint)
        result: Result | list[Result] = await self._driver.run(
            self._verbs.embed(images, wanted, timeout, errors)
        )
        return result

    async def models(self, *, timeout: float | None = None) -> list[ServedModel]:
        """Every model of the server as `vitral.v1` messages, the failed ones with their `reason`."""
        return await self._driver.run(self._verbs.models(timeout))

    async def model(self, name: str | None = None, *, timeout: float | None = None) -> ServedModel:
        """One model as a `vitral.v1` message, by `NAME` or `NAME/VERSION`; None: the only one served.

        Raises:
            ModelNotFoundError: the server has no such model.
        """
        return await self._driver.run(self._verbs.model(name, timeout))

    async def health(self, model: str | None = None, *, timeout: float | None = None) -> Health:
        """What the server says of itself, or of one model.

        Raises:
            ModelNotFoundError: the server has no such model.
            UnavailableError: no server answers.
        """
        return await self._driver.run(self._verbs.health(model, timeout))

    async def close(self) -> None:
        """Ends every call and closes the connection. A second time does nothing. Results stay valid."""
        await self._driver.close()
        if self._sharing is not None:
            self._sharing.close()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the client."""
        await self.close()
