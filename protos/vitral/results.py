"""What embedding one image gives, the same from the client and from the engine in process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vitral import selection
from vitral import spec as specs
from vitral.decode import EXACT
from vitral.errors import InvalidArgumentError
from vitral.selection import WHOLE, Selection
from vitral.tensors import Array
from vitral.v1.model_pb2 import ModelSpec


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each stage of the request this image came with."""

    decode_ms: float = 0.0
    preprocess_ms: float = 0.0
    queue_ms: float = 0.0
    run_ms: float = 0.0
    encode_ms: float = 0.0
    total_ms: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """The tensors of one image.

    Attributes:
        outputs: output name to array, without a batch axis: (N, D) for token sequences, or what was selected
            of them. From a client they are read-only views of the reply or of shared memory, from
            the engine copies that are the caller's own.
        grid: rows and columns of the patch grid.
        spec: the model's spec.
        version: folder name of the version that answered.
        timings: where the time of the request went.
        decode: how image files were decoded: "exact", or "fast", by which large JPEGs gave slightly other
            pixels than the preprocessing contract.
        selections: what was asked of each output; one that is missing is the whole tensor.
        scales: of int8 outputs: float32, one for each row.
        unproven: whether the model was never proven against a reference; the spec's `proof.note` says why.
    """

    outputs: Mapping[str, Array]
    grid: tuple[int, int]
    spec: ModelSpec
    version: str
    timings: Timings = field(default_factory=Timings)
    decode: str = EXACT
    selections: Mapping[str, Selection] = field(default_factory=dict)
    scales: Mapping[str, Array] = field(default_factory=dict)
    unproven: bool = False

    def __repr__(self) -> str:
        """Model, version and the shape of every output."""
        outputs = self.outputs.items()
        shapes = (f"{name} {' x '.join(map(str, array.shape))} {array.dtype}" for name, array in outputs)
        return f"<Embedding of {self.model} {self.version}: {', '.join(shapes)}>"

    @property
    def model(self) -> str:
        """Name of the model that answered."""
        return self.spec.name

    @property
    def fingerprint(self) -> str:
        """Identity of the embedding space: compare vectors of equal fingerprint only."""
        return self.spec.fingerprint

    @property
    def patches(self) -> Array:
        """Patch tokens (N, D) in row-major order: the first default output without its prefix tokens.

        Raises:
            InvalidArgumentError: other rows were selected.
        """
        return self._view("patches")

    @property
    def patch_grid(self) -> Array:
        """Patch tokens as (H, W, D)."""
        patches = self.patches
        return patches.reshape(*self.grid, patches.shape[-1])

    @property
    def cls(self) -> Array:
        """The CLS token (D,).

        Raises:
            InvalidArgumentError: there is none, it does not depend on the image, or other rows were selected.
        """
        return self._view("cls")

    def dequantized(self, name: str) -> Array:
        """An output in floats: int8 times its scales, off by half a scale at most; others as they are.

        Raises:
            InvalidArgumentError: this result has no such output.
        """
        if name not in self.outputs:
            raise InvalidArgumentError(f"there is no output {name!r}; there are {', '.join(self.outputs)}")
        array = self.outputs[name]
        if name not in self.scales:
            return array
        return array.astype(np.float32) * self.scales[name][..., None]  # N D x N -> N D

    def _view(self, view: str) -> Array:
        """These rows of the first token sequence there is, in floats."""
        name = self._tokens()
        had = self.selections.get(name, WHOLE)
        if had.rows not in ("", view):
            raise InvalidArgumentError(f"output {name} holds a selection, {had}: take outputs[{name!r}]")
        part = selection.part(self.spec, name, Selection(view=view))
        array = self.dequantized(name)
        return array if had.rows else part.of(array)

    def _tokens(self) -> str:
        for name in (*self.spec.default_outputs, *self.outputs):
            if name in self.outputs and specs.has_patches(specs.output(self.spec, name)):
                return name
        raise InvalidArgumentError(f"none of the outputs {', '.join(self.outputs)} is a token sequence")
