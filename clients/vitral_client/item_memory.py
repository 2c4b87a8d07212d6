"""The messages of EmbedStream, and the shared memory they name, where there is some and room in it."""

from __future__ import annotations

from dataclasses import dataclass

from vitral import framing, sizes
from vitral.errors import ImageError
from vitral.limits import MAX_MESSAGE_BYTES
from vitral.v1 import embedding_service_pb2 as pb
from vitral_client.image import Content, Image, Pixels
from vitral_client.memory import Range, Region
from vitral_client.parts import read_any
from vitral_client.request import fill


@dataclass(frozen=True)
class Lending:
    """Where a stream's tensors go.

    Attributes:
        region: registered with the server.
        size: bytes that the outputs of one image take there.
    """

    region: Region
    size: int


@dataclass(frozen=True)
class Sent:
    """An image that was taken in, until it is answered.

    Attributes:
        content: the image.
        message: what is sent of it.
        outputs: lent for its outputs; None: the reply brings them.
        tensor: lent for its own tensor; None: the message brings it.
    """

    content: Content
    message: bytes
    outputs: Range | None = None
    tensor: Range | None = None

    def answered(self) -> None:
        """The reply is there: what was lent comes back with the last view of it."""
        if self.outputs is not None:
            self.outputs.settle()
        if self.tensor is not None:
            self.tensor.give_back()

    def refused(self) -> None:
        """The server has written nothing, and will not."""
        for lent in (self.outputs, self.tensor):
            if lent is not None:
                lent.give_back()

    def lost(self) -> None:
        """Nobody knows whether the server still writes."""
        if self.outputs is not None:
            self.outputs.lose()
        if self.tensor is not None:
            self.tensor.give_back()  # a server that still reads there does so for nobody


def sent(number: int, image: Image, lending: Lending | None) -> Sent | ImageError:
    """What is sent of one image, or why nothing is."""
    content = read_any(number, image)
    return content if isinstance(content, ImageError) else framed(number, content, lending)


def framed(number: int, content: Content, lending: Lending | None) -> Sent | ImageError:
    """The same of one that was read."""
    outputs = lending.region.lend(lending.size) if lending is not None else None
    request = pb.EmbedStreamRequest(id=number)
    if lending is None or outputs is None:
        made = Sent(content, b"")
    else:
        request.reply.CopyFrom(outputs.named)
        room = 0 if isinstance(content, bytes) else sizes.aligned(content.array.nbytes)
        made = Sent(content, b"", outputs, lending.region.lend(room) if room else None)
    payloads = []
    if isinstance(content, bytes):
        request.item.encoded = content
    else:
        tensor = request.item.pixels if isinstance(content, Pixels) else request.item.prepared
        array = fill(tensor, content)
        if made.tensor is not None:
            tensor.shared.CopyFrom(made.tensor.write(0, array))
        else:
            tensor.payload = 0
            payloads.append(array)
    total = framing.framed_bytes(request.ByteSize(), (payload.nbytes for payload in payloads))
    if total > MAX_MESSAGE_BYTES:
        made.refused()
        told = f"the image takes {total} bytes, over the limit of {MAX_MESSAGE_BYTES} bytes a message"
        return ImageError(told, cause="too_large", index=number)
    header = request.SerializeToString()
    message = framing.join(header, payloads) if payloads else header
    return Sent(content, message, made.outputs, made.tensor)
