"""A model at one image size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vitral import dynamic
from vitral import spec as specs
from vitral.dynamic import Size
from vitral.errors import UnsupportedError
from vitral.v1 import model_pb2 as pb
from vitral_engine.intake import Intake
from vitral_engine.raw_intake import intake_of

_KEPT = 64
"""Sizes that are remembered beside the native one."""


@dataclass(frozen=True)
class Sized:
    """What a model is at one image size.

    Attributes:
        size: the size; None for a model that has but one.
        spec: that of a model of this static size.
        intake: from pictures to rows of this size.
    """

    size: Size | None
    spec: pb.ModelSpec
    intake: Intake


class Sizes:
    """A model at every size it takes. Any thread may ask.

    Args:
        spec: of the model.
        max_pixels: most pixels of one image.
        decode: how image files are decoded.
        native_on: device on which only the native size is run; empty: all are.
    """

    def __init__(self, spec: pb.ModelSpec, *, max_pixels: int, decode: str, native_on: str = "") -> None:
        self._spec, self._max_pixels, self._decode = spec, max_pixels, decode
        self._native_on = native_on
        self._own = dynamic.native(spec)
        self._native = self._made(self._own)
        self._others = lru_cache(_KEPT)(self._made)

    def at(self, size: Size | None) -> Sized:
        """The model at this size; None: at its native one.

        Raises:
            InvalidArgumentError: the model does not take it.
            UnsupportedError: the device does not.
        """
        return self._native if size is None or size == self._own else self._others(size)

    def _made(self, size: Size) -> Sized:
        spec = dynamic.at(self._spec, None if size == self._own else size)
        if self._native_on and size != self._own:
            told = f"size {size[0]} x {size[1]} was asked for, but on {self._native_on} model {spec.name}"
            raise UnsupportedError(f"{told} runs at its native size only, {self._own[0]} x {self._own[1]}")
        own = specs.input_size(spec.preprocessing)
        contracts = size == (own.height, own.width) or not dynamic.is_dynamic(self._spec)
        intake = intake_of(
            spec, max_pixels=self._max_pixels, decode=self._decode, size=None if contracts else size
        )
        return Sized(size if dynamic.is_dynamic(self._spec) else None, spec, intake)
