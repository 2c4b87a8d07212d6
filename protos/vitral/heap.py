"""What the C library does with memory of the size of a reply."""

from __future__ import annotations

_BLOCK = 31 << 20


def settle() -> None:
    """Lets the C library keep the memory of large messages for the next ones.

    glibc maps each block over 128 KiB anew, and the kernel clears every page of it, until a larger one was
    freed: from then on blocks of that size stay in the heap. Programs that work with pictures soon get there
    by themselves; this gets there at once, without touching a page. Elsewhere it does nothing.
    """
    block = bytes(_BLOCK)
    del block
