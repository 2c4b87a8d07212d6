"""Everything the figures of one picture show, computed once: pixels, patches, values, tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from vitral import spec as specs
from vitral.errors import ArtifactError, ImageError, InvalidArgumentError
from vitral.v1 import model_pb2 as pb
from vitral_engine import image, raw_scale
from vitral_engine.artifact import open_artifact
from vitral_engine.preprocess import Preprocessor
from vitral_view import tiles
from vitral_view.tensors import EmbeddingTensors, from_mapping


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture on its way through one model's patch embedding.

    Attributes:
        spec: the model's spec.
        version: folder name of its version.
        tensors: its weights.
        pixels: the picture after the resize, uint8 (H, W, 3), the nearest levels where it is no bytes.
        values: normalised values of each patch, float32 (N, C * P * P).
        followed: the patch that is followed through the steps.
    """

    spec: pb.ModelSpec
    version: str
    tensors: EmbeddingTensors
    pixels: NDArray[np.uint8]
    values: NDArray[np.float32]
    followed: int

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.spec.name

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return self.spec.architecture.grid.height, self.spec.architecture.grid.width

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.spec.architecture.patch_size.height, self.spec.architecture.patch_size.width

    @property
    def weights(self) -> str:
        """How the weights came to be, in words: `random weights, seed 0`."""
        fallback = "random weights" if specs.is_random(self.spec) else self.spec.source.reference
        return self.spec.source.weights_note or fallback

    @cached_property
    def patches(self) -> NDArray[np.uint8]:
        """Pixels of each patch (N, P, P, 3)."""
        return tiles.cut(self.pixels, self.grid, self.patch_size)

    @cached_property
    def tokens(self) -> NDArray[np.float32]:
        """The projected patches (N, D), before anything is put in front or added."""
        weight = self.tensors.weight.reshape(len(self.tensors.weight), -1).astype(np.float64)
        tokens = self.values @ weight.T + self.tensors.bias  # N CPP @ CPP D -> N D
        return tokens.astype(np.float32)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the model has nothing for, a line each."""
        lines = []
        if self.tensors.cls_token is None:
            lines.append("CLS in front, for this model has no CLS token")
        if self.tensors.positions is None:
            rows, count = self.tensors.table_rows, len(self.values)
            why = f"their {rows} rows do not fit its {count} patches" if rows else "this model has none"
            lines.append(f"position embeddings, for {why}")
        return tuple(lines)


def read(model: Path | str, picture: Path | str, *, patch: int | None = None) -> Scene:
    """The scene of an image file and an artifact, whose hashes are checked.

    Args:
        model: REPO/NAME (newest version) or REPO/NAME/VERSION.
        picture: the image file.
        patch: number of the patch to follow, row by row from 0; that of largest contrast where None.

    Raises:
        ModelNotFoundError: there is no such model.
        ArtifactError: it is damaged, or has no tensors to draw from.
        ImageError: the image cannot be read.
        InvalidArgumentError: the model takes no pictures, or has no such patch.
    """
    artifact = open_artifact(model)
    spec = artifact.spec
    if not spec.HasField("preprocessing"):
        raise InvalidArgumentError(
            f"model {spec.name} has no preprocessing: it takes no pictures, only prepared rows"
        )
    if spec.preprocessing.contract == raw_scale.CONTRACT:
        channels = f"{spec.architecture.in_channels} channels of values"
        raise InvalidArgumentError(
            f"model {spec.name} takes {channels} ({raw_scale.CONTRACT}), not RGB: there is no picture to draw"
        )
    if specs.EMBEDDING not in spec.sha256:
        raise ArtifactError(f"model {spec.name} has no {specs.EMBEDDING}: there is nothing to draw from")
    tensors = from_mapping(load_file(artifact.folder / specs.EMBEDDING), spec.architecture)
    preprocessor = Preprocessor(spec.preprocessing)
    pixels = preprocessor.resize(_decoded(Path(picture)))
    shown, normalised = preprocessor.shown(pixels), preprocessor.normalise(pixels)
    return make(spec, artifact.version, tensors, shown, normalised, patch)


def make(
    spec: pb.ModelSpec,
    version: str,
    tensors: EmbeddingTensors,
    pixels: NDArray[np.uint8],
    normalised: NDArray[np.float32],
    patch: int | None,
) -> Scene:
    """The scene of resized pixels (H, W, 3) and the same normalised (3, H, W).

    Raises:
        ArtifactError: the pixels are fewer than the patch grid needs.
        InvalidArgumentError: there is no such patch.
    """
    grid, size = spec.architecture.grid, spec.architecture.patch_size
    shape, cell = (grid.height, grid.width), (size.height, size.width)
    needed = (shape[0] * cell[0], shape[1] * cell[1])
    if pixels.shape[0] < needed[0] or pixels.shape[1] < needed[1]:
        found = f"{pixels.shape[0]} x {pixels.shape[1]}"
        raise ArtifactError(
            f"model {spec.name} makes pictures of {found}, its patches need {needed[0]} x {needed[1]}"
        )
    if patch is None:
        patch = tiles.highest_contrast(tiles.cut(pixels, shape, cell))
    if not 0 <= patch < shape[0] * shape[1]:
        raise InvalidArgumentError(
            f"there is no patch {patch}: model {spec.name} has 0 to {shape[0] * shape[1] - 1}"
        )
    return Scene(spec, version, tensors, pixels, tiles.flatten(normalised, shape, cell), patch)


def _decoded(picture: Path) -> NDArray[np.uint8]:
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {picture}: {error.strerror}", cause="unreadable") from None
    return image.decode(data)
