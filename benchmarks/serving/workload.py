"""What is asked of a server: pictures, a model, an output and the form it is wanted in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Workload:
    """One kind of request, one image a call.

    Attributes:
        name: `W1` and so on, with what sets variants apart behind it.
        title: what it is, for the table.
        model: name of the model in the benchmark's repository.
        door: `pixels`, uint8 (H, W, 3) of the model's own size, or `encoded`, JPEG bytes.
        pictures: height and width of the pictures.
        output: name of the output.
        view: `cls`, or empty for the whole tensor.
        dtype: element type of the reply.
    """

    name: str
    title: str
    model: str
    door: str
    pictures: tuple[int, int]
    output: str
    view: str
    dtype: str


_PATCHES = "patch-embedding"  # ViT-B/16
_SMALL = "vit-s16"  # 12 layers, 224 x 224
_LARGE = "vit-s14-518"  # 12 layers, 518 x 518

_ALL = (
    Workload(
        "W1", "pixels 224 x 224 to patch embeddings, float32", _PATCHES, "pixels", (224, 224),
        "patch_embeddings", "", "float32",
    ),
    Workload(
        "W1-half", "pixels 224 x 224 to patch embeddings, float16", _PATCHES, "pixels", (224, 224),
        "patch_embeddings", "", "float16",
    ),
    Workload(
        "W2", "JPEG 640 x 480 to patch embeddings, float16", _PATCHES, "encoded", (480, 640),
        "patch_embeddings", "", "float16",
    ),
    Workload(
        "W3", "JPEG of 12 megapixels to patch embeddings, float16", _PATCHES, "encoded", (3000, 4000),
        "patch_embeddings", "", "float16",
    ),
    Workload(
        "W4", "JPEG 640 x 480 to the CLS token of a ViT-S/16, float32", _SMALL, "encoded", (480, 640),
        "last_hidden_state", "cls", "float32",
    ),
    Workload(
        "W5", "JPEG 640 x 480 to the last hidden state of a ViT-S/14 at 518 x 518, float16", _LARGE,
        "encoded", (480, 640), "last_hidden_state", "", "float16",
    ),
)  # fmt: skip

WORKLOADS: Mapping[str, Workload] = MappingProxyType({one.name: one for one in _ALL})
"""Every workload by name."""


def viewed(array: NDArray[Any], workload: Workload) -> NDArray[Any]:
    """The part of a whole tensor (N, D) that the workload wants; the CLS token is its first row."""
    return array[0] if workload.view == "cls" else array
