"""Freed memory stays with the process while a benchmark runs, so that no call pays for what another has freed."""

import ctypes

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 32 << 20  # blocks above are mapped one by one whatever is asked for


def keep_freed_memory() -> bool:
    """Ask glibc not to shrink its heap; False where another C library is in use.

    By default it gives the end of its heap back at the next larger free, which need not be that of the call that
    left it there: 126 MB of the definition's temporaries cost conv2d_aliasing, timed after it, 10 to 20 ms in the
    system, more than its own work. Peers gain the most: their temporaries need no fresh pages.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1 and mallopt(M_MMAP_THRESHOLD, LARGEST) == 1
