"""What the C library does with memory that was given back."""

from __future__ import annotations

import ctypes
import os

from vitral.heap import settle

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


def share() -> bool:
    """One heap for all threads, where the C library is glibc; false where it has no such choice.

    It keeps blocks of the size of a reply.

    By default glibc gives each thread a heap of its own. Requests come in on one thread, are decoded on
    others and freed on whichever is last: every heap keeps holes of its own, and resident memory creeps up
    under load. To be called before there are threads. Whoever sets MALLOC_ARENA_MAX has the last word.
    """
    settle()
    if "MALLOC_ARENA_MAX" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be asked
        return False
    return bool(mallopt(_ARENA_MAX, 1))
