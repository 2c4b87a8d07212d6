"""The CUDA driver, as far as a lane needs it: page-locked host memory, device memory, and the copies.

onnxruntime's Python neither gives page-locked arrays nor copies an output into an array that is there, and
what its sessions allocate comes from arenas that captured graphs use too. The driver's library is loaded by
the CUDA provider anyway, and its interface is an old and stable one.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np

from vitral.errors import DeviceError
from vitral.tensors import Array

LIBRARY = "libcuda.so.1"
"""The driver's library."""

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuMemHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
}
_PORTABLE = 1  # page-locked for every context of the process
_NON_BLOCKING = 1  # a stream that does not wait for the default one
_MAJOR, _MINOR = 75, 76  # attributes: compute capability


class Driver:
    """The driver's functions; each raises where the driver reports an error.

    Args:
        library: what `ctypes` loaded.

    Raises:
        DeviceError: a function is missing or the driver does not start.
    """

    def __init__(self, library: Any) -> None:
        self._functions = {}
        for name, types in _FUNCTIONS.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise DeviceError(f"{LIBRARY} has no {name}: the driver is too old") from None
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function
        self.call("cuInit", 0)

    def call(self, name: str, *args: Any) -> None:
        """Calls the function of this name.

        Raises:
            DeviceError: with the driver's name of the error.
        """
        if code := self._functions[name](*args):
            said = c_char_p()
            self._functions["cuGetErrorName"](code, ctypes.byref(said))
            raise DeviceError(f"{name} failed: {(said.value or b'unknown error').decode()} ({code})")


@cache
def driver() -> Driver:
    """The driver of this machine.

    Raises:
        DeviceError: there is none, or it does not work.
    """
    try:
        return Driver(ctypes.CDLL(LIBRARY))
    except OSError as error:
        raise DeviceError(str(error)) from None


class Context:
    """A device in this process: the context that onnxruntime uses too, and what waits to be freed in it."""

    def __init__(self, calls: Driver, index: int) -> None:
        self.calls, self.index = calls, index
        self._device, self._handle = c_int(), c_void_p()
        calls.call("cuDeviceGet", ctypes.byref(self._device), index)
        calls.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._handle), self._device)
        self._waste: deque[tuple[str, int]] = deque()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Makes it the calling thread's own, and takes it away again."""
        self.calls.call("cuCtxPushCurrent_v2", self._handle)
        try:
            yield
        finally:
            self.calls.call("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))

    def leave(self, owner: object, function: str, address: int) -> None:
        """Frees an address some time after its owner is gone.

        Not at once: an object can go in any thread at any moment, and to free while a graph is captured
        spoils it.
        """
        weakref.finalize(owner, self._waste.append, (function, address)).atexit = False

    def sweep(self) -> None:
        """Frees what is left of owners that are gone. Within `current`."""
        while self._waste:
            function, address = self._waste.popleft()
            self.calls.call(function, address)

    def describe(self) -> str:
        """Name and compute capability, as in `sm90-NVIDIA-H100`."""
        name, major, minor = ctypes.create_string_buffer(256), c_int(), c_int()
        self.calls.call("cuDeviceGetName", name, len(name), self._device)
        self.calls.call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, self._device)
        self.calls.call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, self._device)
        return f"sm{major.value}{minor.value}-{name.value.decode().replace(' ', '-')}"


@cache
def context(index: int) -> Context:
    """The device of this number.

    Raises:
        DeviceError: there is none, or it does not work.
    """
    return Context(driver(), index)


class CudaBlock:
    """Device memory, from the driver itself: nothing that onnxruntime allocates is ever in it."""

    def __init__(self, within: Context, size: int) -> None:
        address = c_uint64()
        within.calls.call("cuMemAlloc_v2", ctypes.byref(address), size)
        self.address, self.size = int(address.value), size
        within.leave(self, "cuMemFree_v2", self.address)


class CudaMemory:
    """See `vitral_engine.memory.Memory`. Copies go over a stream of its own, and have ended on return."""

    kind = "cuda"

    def __init__(self, within: Context) -> None:
        self.index = within.index
        self._within, self._stream = within, c_void_p()
        with within.current():
            within.calls.call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        within.leave(self, "cuStreamDestroy_v2", int(self._stream.value or 0))

    def host(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Page-locked zeros."""
        size = int(np.prod(shape)) * dtype.itemsize
        address = c_void_p()
        with self._within.current():
            self._within.sweep()
            self._within.calls.call("cuMemHostAlloc", ctypes.byref(address), size, _PORTABLE)
        owner = (ctypes.c_ubyte * size).from_address(int(address.value or 0))
        self._within.leave(owner, "cuMemFreeHost", int(address.value or 0))
        array: Array = np.frombuffer(memoryview(owner), dtype).reshape(shape)
        array.fill(0)
        return array

    def block(self, size: int) -> CudaBlock:
        """Memory on the device."""
        with self._within.current():
            self._within.sweep()
            return CudaBlock(self._within, size)

    def upload(self, address: int, array: Array) -> None:
        """Copies a contiguous array to the device."""
        self._copy("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes)

    def download(self, array: Array, address: int) -> None:
        """Fills a contiguous array from the device."""
        self._copy("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes)

    def _copy(self, function: str, to: int, source: int, size: int) -> None:
        with self._within.current():
            self._within.calls.call(function, to, source, size, self._stream)
            self._within.calls.call("cuStreamSynchronize", self._stream)
