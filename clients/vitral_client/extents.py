"""The spec at the sizes that the images of a request have: bytes of a reply are counted by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vitral import dynamic
from vitral.dynamic import Size
from vitral.errors import InvalidArgumentError
from vitral.v1.model_pb2 import ModelSpec
from vitral_client.image import Content, Prepared


def specs_at(spec: ModelSpec, size: Size | None, contents: Iterable[Content]) -> Sequence[ModelSpec]:
    """The spec at each size there is, one at least; sizes that the server will refuse are left out.

    Args:
        spec: of the model.
        size: that is asked for; None: the native one, and that of its shape for each prepared row.
        contents: the images.
    """
    if not dynamic.is_dynamic(spec):
        return [spec]
    wanted = {size} if size is not None else {_size_of(spec, content) for content in contents}
    found = [made for one in wanted for made in _at(spec, one)]
    return found or [dynamic.at(spec)]


def _size_of(spec: ModelSpec, content: Content) -> Size | None:
    return dynamic.of_row(spec, content.array.shape) if isinstance(content, Prepared) else None


def _at(spec: ModelSpec, size: Size | None) -> Iterable[ModelSpec]:
    try:
        return [dynamic.at(spec, size)]
    except InvalidArgumentError:
        return []
