"""What becomes of freed memory while a benchmark runs."""

import ctypes

import torch

__all__ = ["give_back_at_once", "keep_freed_memory", "settle"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 32 << 20  # blocks above are mapped one by one whatever is asked for


def settle() -> None:
    """Have the allocator do now what it owes, between two timings.

    glibc gives the end of its heap back at the next larger free, which need not be that of the call that left it
    there: 126 MB of the definition's temporaries cost conv2d_aliasing, timed after it, 10 to 20 ms in the system,
    more than its own work.
    """
    torch.empty(1 << 17, dtype=torch.uint8)  # and gone: a free that is large enough


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
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return mallopt(M_TRIM_THRESHOLD, trim) == 1 and mallopt(M_MMAP_THRESHOLD, mmap) == 1
