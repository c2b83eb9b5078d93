"""What becomes of freed memory while a benchmark runs."""

import ctypes
from functools import cache

__all__ = ["give_back_at_once", "keep_freed_memory", "settle"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 32 << 20  # blocks above are mapped one by one whatever is asked for


def settle() -> None:
    """Have the allocator do now what it owes, between two timings; nothing where glibc is not in use.

    It gives the end of its heap back at a larger free, which need not be that of the call that left it there: one small
    block that a thread keeps for itself can lie in between. 90 MB of the definition's temporaries cost conv2d_aliasing,
    timed after it, 10 to 20 ms in the system, more than its own work. So take all such blocks, and free
    them behind others, of which a thread keeps but a few; then free one that is large enough.
    """
    libc = _glibc()
    if libc is None:
        return
    for size in range(24, 1041, 16):
        blocks = [libc.malloc(size) for _ in range(16)]
        for block in reversed(blocks):
            libc.free(block)
    libc.free(libc.malloc(1 << 17))


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    except (AttributeError, OSError, TypeError):
        return None
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    return libc


def keep_freed_memory() -> bool:
    """Ask glibc not to shrink its heap; False where another C library is in use.

    Nobody needs fresh pages then but for blocks above 32 MB. Peers gain the most, for their temporaries.
    """
    return _set(2**31 - 1, LARGEST)


def give_back_at_once() -> bool:
    """Ask glibc to map every block of 64 KB and more by itself: what is resident is then what is in use.

    Otherwise holes in the heap move the peak of a training step by 8 % from one process to the next.
    """
    return _set(1 << 16, 1 << 16)


def _set(trim: int, mmap: int) -> bool:
    libc = _glibc()
    if libc is None:
        return False
    return libc.mallopt(M_TRIM_THRESHOLD, trim) == 1 and libc.mallopt(M_MMAP_THRESHOLD, mmap) == 1
