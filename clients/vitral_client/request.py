"""Images and wishes to the bytes of one EmbedRequest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitral import framing, output_request, sizes
from vitral.errors import ImageError, TooLargeError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.selection import WHOLE, Selection
from vitral.tensors import Array, dtype_named
from vitral.v1 import embedding_service_pb2 as pb
from vitral.v1 import tensor_pb2
from vitral_client import argument
from vitral_client.image import Content, Pixels, Prepared
from vitral_client.memory import Range

_KINDS = {"uint8": "|u1", "uint16": "<u2", "float32": "<f4"}
"""Element types that are sent, little-endian."""

_ITEM_BYTES = 64
"""Most bytes of an item that are neither its file nor its payload: tags, lengths, dtype and shape."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of every image of a request.

    Attributes:
        model: `NAME` or `NAME/VERSION`; empty: the only model served.
        outputs: names; empty: the model's default outputs.
        selection: which rows of every output, and in what form.
        size: height and width, for models of dynamic size.
        fingerprint: the one the model must have; empty: any.
    """

    model: str = ""
    outputs: tuple[str, ...] = ()
    selection: Selection = WHOLE
    size: tuple[int, int] | None = None
    fingerprint: str = ""


def wish(
    model: str | None,
    outputs: str | Sequence[str] | None,
    selection: Selection,
    size: tuple[int, int] | None,
    fingerprint: str | None,
) -> Wish:
    """The wish in the arguments of `embed`.

    Raises:
        InvalidArgumentError: an argument of another type, or out of range.
    """
    return Wish(
        model=argument.optional_text("model", model),
        outputs=argument.texts("outputs", outputs),
        selection=selection,
        size=argument.size(size),
        fingerprint=argument.optional_text("expect_fingerprint", fingerprint),
    )


@dataclass(frozen=True)
class Request:
    """A request ready to be sent.

    Attributes:
        message: the bytes of the EmbedRequest; empty when no image could be read, and while it is not made.
        sent: indices of the images that are in it.
        failed: the others' errors by index.
        contents: the images that are in it, while it is not made.
        wish: what is wanted of them.
    """

    message: bytes
    sent: Sequence[int]
    failed: Mapping[int, ImageError]
    contents: Sequence[Content] = ()
    wish: Wish = Wish()

    def framed(self) -> bytes:
        """The bytes of the EmbedRequest.

        Raises:
            TooLargeError: they cross the limit of one message.
        """
        return self.message or frame(self.contents, self.wish)

    @property
    def shared_bytes(self) -> int:
        """Shared memory its tensors take."""
        return sum(sizes.aligned(one.array.nbytes) for one in self.contents if not isinstance(one, bytes))


def split_name(model: str) -> tuple[str, str]:
    """Name and version of `NAME` or `NAME/VERSION`."""
    name, _, version = model.partition("/")
    return name, version


def content_bytes(content: Content) -> int:
    """Bytes an image takes in a request, its framing included."""
    return _ITEM_BYTES + (len(content) if isinstance(content, bytes) else content.array.nbytes)


def room(wish: Wish) -> int:
    """Bytes that a request with this wish has for images."""
    return MAX_MESSAGE_BYTES - _head(wish).ByteSize()


def frame(contents: Sequence[Content], wish: Wish) -> bytes:
    """The bytes of the EmbedRequest.

    Raises:
        TooLargeError: they cross the limit of one message.
    """
    request = _head(wish)
    payloads: list[Array] = []
    for content in contents:
        item = request.items.add()
        if isinstance(content, bytes):
            item.encoded = content
        else:
            tensor = item.pixels if isinstance(content, Pixels) else item.prepared
            tensor.payload = len(payloads)
            payloads.append(fill(tensor, content))
    total = framing.framed_bytes(request.ByteSize(), (payload.nbytes for payload in payloads))
    if total > MAX_MESSAGE_BYTES:
        what = f"a request of {len(contents)} images" if len(contents) > 1 else "a request of one image"
        limit = f"over the limit of {MAX_MESSAGE_BYTES} bytes a message"
        raise TooLargeError(f"{what} takes at least {total} bytes, {limit}")
    header = request.SerializeToString()
    return framing.join(header, payloads) if payloads else header


def frame_shared(request: Request, sent: Range | None, reply: Range) -> bytes:
    """The same request with its tensors in shared memory, and room there for the outputs.

    Args:
        request: what is sent.
        sent: a range of at least `request.shared_bytes`; None: tensors go into the message.
        reply: for the outputs.
    """
    if sent is None:
        # Protobuf merges the two.
        return request.framed() + pb.EmbedRequest(reply=reply.named).SerializeToString()
    made, at = _head(request.wish), 0
    made.reply.CopyFrom(reply.named)
    for content in request.contents:
        item = made.items.add()
        if isinstance(content, bytes):
            item.encoded = content
            continue
        tensor = item.pixels if isinstance(content, Pixels) else item.prepared
        array = fill(tensor, content)
        tensor.shared.CopyFrom(sent.write(at, array))
        at += sizes.aligned(array.nbytes)
    return made.SerializeToString()


def _head(wish: Wish) -> pb.EmbedRequest:
    name, version = split_name(wish.model)
    request = pb.EmbedRequest(model=name, version=version, expect_fingerprint=wish.fingerprint)
    if wish.size is not None:
        request.size.height, request.size.width = wish.size
    request.outputs.extend(output_request.write(name, wish.selection) for name in wish.outputs)
    return request


def fill(tensor: tensor_pb2.Tensor, content: Pixels | Prepared) -> Array:
    """Says in `tensor` what this array is; gives its payload."""
    name = content.array.dtype.newbyteorder("=").name if isinstance(content, Pixels) else "float32"
    array = np.ascontiguousarray(content.array, dtype=_KINDS[name])
    tensor.dtype = dtype_named(name)
    tensor.shape.extend(array.shape)
    return array
