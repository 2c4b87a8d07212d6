"""The verbs of AsyncClient that take any number of images and give results as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence

from vitral.errors import ImageError
from vitral.results import Embedding
from vitral_client.aio_driver import Driver
from vitral_client.choice import View, choice
from vitral_client.image import Image, listed
from vitral_client.item_stream import Terms
from vitral_client.request import Wish, wish
from vitral_client.steps import Verbs
from vitral_client.stream import Bounds, Stream


class AsyncStreams:
    """What `AsyncClient` inherits."""

    _driver: Driver
    _verbs: Verbs

    def embed_iter(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
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
        expect_fingerprint: str | None = None,
        batch: int = 16,
        in_flight: int = 4,
    ) -> AsyncGenerator[Embedding | ImageError, None]:
        """Embeds images as they come, any number of them, with a bounded number in memory.

        Args:
            images: each as for `embed`, plain or asynchronous; a plain one runs in the event loop.
            model: `NAME` or `NAME/VERSION`; None: the only model served.
            outputs: names of the outputs; None: the model's default outputs.
            view: as for `embed`.
            patches: as for `embed`.
            rect: as for `embed`.
            l2_normalize: as for `embed`.
            dtype: as for `embed`.
            size: height and width, for models of dynamic size.
            timeout: seconds each request has; None: the client's.
            expect_fingerprint: refuse to embed with a model of another fingerprint.
            batch: images of one request.
            in_flight: most requests in work; `images` is never ahead of the results by more than
                `batch * in_flight`.

        Yields:
            One entry for each image, in their order: its `Embedding`, or its `ImageError` whose `index` is
            its position. All come from one embedding space, also when the model is replaced meanwhile.

        Raises:
            FingerprintMismatchError: the model was replaced.
            VitralError: any other way a request can end. The results before it are given first, as they are
                where `images` itself raises.
        """
        chosen = choice(view, patches, rect, dtype, l2_normalize=l2_normalize)
        wanted: Wish = wish(model, outputs, chosen, size, expect_fingerprint)
        stream = Stream(self._verbs, wanted, timeout, Bounds(batch, in_flight))
        return self._driver.stream(
            stream.moves(), images if isinstance(images, AsyncIterable) else listed(images)
        )

    def embed_stream(
        self,
        images: Iterable[Image] | AsyncIterable[Image],
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
        expect_fingerprint: str | None = None,
        ordered: bool = False,
        in_flight: int = 32,
    ) -> AsyncGenerator[tuple[int, Embedding | ImageError], None]:
        """Embeds images in one stream: each is answered as soon as it is done, whatever the others take.

        It costs less than a call for each image, and asks for less patience than `embed_iter`, which sends
        them in batches and repeats each by itself.

        Args:
            images: as for `embed_iter`, pulled in a task of its own.
            model: as for `embed_iter`.
            outputs: as for `embed_iter`.
            view: as for `embed`.
            patches: as for `embed`.
            rect: as for `embed`.
            l2_normalize: as for `embed`.
            dtype: as for `embed`.
            size: as for `embed_iter`.
            timeout: seconds the whole stream has; None: as many as it takes.
            expect_fingerprint: refuse to embed with a model of another fingerprint.
            ordered: whether results keep the order of the images.
            in_flight: most images taken from `images` and not yet given.

        Yields:
            The position of an image and its `Embedding`, or its `ImageError`. All come from one embedding
            space. A stream that breaks is opened again, and what was not answered is sent again.

        Raises:
            FingerprintMismatchError: the model was replaced.
            VitralError: any other way the stream can end, or what `images` raises, after what was answered.
        """
        chosen = choice(view, patches, rect, dtype, l2_normalize=l2_normalize)
        wanted: Wish = wish(model, outputs, chosen, size, expect_fingerprint)
        deadline = None if timeout is None else self._verbs.deadline(timeout)
        terms = Terms(ordered, in_flight, deadline)
        return self._driver.items(
            self._verbs.flow(wanted, terms, timeout),
            images if isinstance(images, AsyncIterable) else listed(images),
        )
