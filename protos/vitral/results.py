"""What embedding one image gives, the same from the client and from the engine in process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitral import spec as specs
from vitral.errors import InvalidArgumentError
from vitral.tensors import Array
from vitral.v1.model_pb2 import PREFIX_TOKEN_CLS, ModelSpec, Output


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
        outputs: output name to array, without a batch axis; (N, D) for token sequences. From a client they
            are read-only views of the reply or of shared memory, from the engine the caller's own copies.
        grid: rows and columns of the patch grid.
        spec: the model's spec.
        version: folder name of the version that answered.
        timings: where the time of the request went.
    """

    outputs: Mapping[str, Array]
    grid: tuple[int, int]
    spec: ModelSpec
    version: str
    timings: Timings = field(default_factory=Timings)

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
        """Patch tokens (N, D) in row-major order: the first default output without its prefix tokens."""
        item, array = self._tokens()
        return array[len(item.prefix_tokens) :]

    @property
    def patch_grid(self) -> Array:
        """Patch tokens as (H, W, D)."""
        patches = self.patches
        return patches.reshape(*self.grid, patches.shape[-1])

    @property
    def cls(self) -> Array:
        """The CLS token (D,).

        Raises:
            InvalidArgumentError: there is none, or it does not depend on the image.
        """
        item, array = self._tokens()
        if PREFIX_TOKEN_CLS not in item.prefix_tokens:
            raise InvalidArgumentError(f"output {item.name} of model {self.model} has no CLS token")
        if not item.image_dependent_prefix:
            message = (
                f"the CLS row of {item.name} does not depend on the image: it is the same constant for all"
            )
            raise InvalidArgumentError(message)
        row: Array = array[list(item.prefix_tokens).index(PREFIX_TOKEN_CLS)]
        return row

    def _tokens(self) -> tuple[Output, Array]:
        for name in (*self.spec.default_outputs, *self.outputs):
            if name in self.outputs and specs.has_patches(item := specs.output(self.spec, name)):
                return item, self.outputs[name]
        raise InvalidArgumentError(f"none of the outputs {', '.join(self.outputs)} is a token sequence")
