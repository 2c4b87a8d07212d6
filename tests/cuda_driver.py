"""A CUDA driver for machines without one: its functions, callable from C, over memory of the host.

What it stands for is tested with the real one by tests/test_gpu_cuda.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_char, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

_INVALID_CONTEXT = 201
_libc = ctypes.CDLL(None)
_libc.malloc.restype, _libc.malloc.argtypes = c_void_p, (c_size_t,)
_libc.free.argtypes = (c_void_p,)


class HostDriver:
    """Has an attribute for each function.

    Attributes:
        live: addresses that are allocated, and by which function.
        copies: bytes copied, with direction.
        failing: function to the code it answers.
    """

    def __init__(self) -> None:
        self.live: dict[int, str] = {}
        self.copies: list[tuple[str, int]] = []
        self.failing: dict[str, int] = {}
        self.depth = 0
        self._name = ctypes.create_string_buffer(b"CUDA_ERROR_OUT_OF_MEMORY")
        pointer, text = ctypes.POINTER(c_void_p), ctypes.POINTER(c_char_p)
        number, address = ctypes.POINTER(c_int), ctypes.POINTER(c_uint64)
        self._add("cuInit", self._fine, c_uint)
        self._add("cuGetErrorName", self._error, c_int, text)
        self._add("cuDeviceGet", self._set(0), number, c_int)
        self._add("cuDeviceGetName", self._device_name, ctypes.POINTER(c_char), c_int, c_int)
        self._add("cuDeviceGetAttribute", self._attribute, number, c_int, c_int)
        self._add("cuDevicePrimaryCtxRetain", self._set(77), pointer, c_int)
        self._add("cuCtxPushCurrent_v2", self._push, c_void_p)
        self._add("cuCtxPopCurrent_v2", self._pop, pointer)
        self._add("cuMemHostAlloc", self._allocate("host"), pointer, c_size_t, c_uint)
        self._add("cuMemFreeHost", self._free("host"), c_void_p)
        self._add("cuMemAlloc_v2", self._allocate("device"), address, c_size_t)
        self._add("cuMemFree_v2", self._free("device"), c_uint64)
        self._add("cuStreamCreate", self._stream, pointer, c_uint)
        self._add("cuStreamDestroy_v2", self._free("stream"), c_void_p)
        self._add("cuStreamSynchronize", self._inside, c_void_p)
        self._add("cuMemcpyHtoDAsync_v2", self._copy("up"), c_uint64, c_void_p, c_size_t, c_void_p)
        self._add("cuMemcpyDtoHAsync_v2", self._copy("down"), c_void_p, c_uint64, c_size_t, c_void_p)

    def of(self, kind: str) -> int:
        """Allocations of a kind that are not freed."""
        return sum(one == kind for one in self.live.values())

    def _add(self, name: str, function: Callable[..., int], *types: Any) -> None:
        def called(*args: Any) -> int:
            return self.failing.get(name) or function(*args)

        setattr(self, name, CFUNCTYPE(c_int, *types)(called))

    def _fine(self, *_: Any) -> int:
        return 0

    def _inside(self, *_: Any) -> int:
        return 0 if self.depth else _INVALID_CONTEXT

    def _error(self, code: int, text: Any) -> int:
        text[0] = ctypes.cast(self._name, c_char_p)
        return 0

    def _set(self, value: int) -> Callable[..., int]:
        def fill(pointer: Any, *_: Any) -> int:
            pointer[0] = value
            return 0

        return fill

    def _device_name(self, name: Any, size: int, _: int) -> int:
        ctypes.memmove(name, b"NVIDIA Host 1\0", min(size, 14))
        return 0

    def _attribute(self, value: Any, which: int, _: int) -> int:
        value[0] = {75: 9, 76: 0}[which]
        return 0

    def _push(self, handle: int) -> int:
        self.depth += 1
        return 0 if handle == 77 else _INVALID_CONTEXT

    def _pop(self, pointer: Any) -> int:
        self.depth -= 1
        return 0

    def _allocate(self, kind: str) -> Callable[..., int]:
        def allocate(pointer: Any, size: int, *_: Any) -> int:
            if not self.depth:
                return _INVALID_CONTEXT
            pointer[0] = found = _libc.malloc(size)
            ctypes.memset(found, 0xA5, size)
            self.live[found] = kind
            return 0

        return allocate

    def _free(self, kind: str) -> Callable[..., int]:
        def free(address: int) -> int:
            if not self.depth or self.live.pop(address, "") != kind:
                return _INVALID_CONTEXT
            _libc.free(address)
            return 0

        return free

    def _stream(self, pointer: Any, _: int) -> int:
        return self._allocate("stream")(pointer, 16)

    def _copy(self, direction: str) -> Callable[..., int]:
        def copy(to: int, source: int, size: int, stream: int) -> int:
            if self.live.get(stream) != "stream" or not self.depth:
                return _INVALID_CONTEXT
            self.copies.append((direction, size))
            ctypes.memmove(to, source, size)
            return 0

        return copy
