"""The C library's allocator, told to keep what a process frees: most maps are allocated anew in each step."""

import ctypes

# Of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Serve large blocks from the heap too, and never give its end back to the system.

    By default glibc maps each block of some MiB anew, and the system clears its pages one fault at a time, which takes up to as
    long as a pooling neck's forward pass. What a process has freed then stays its own until it ends.

    Returns:
        Whether this C library has these settings and took them.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError, TypeError):  # another C library, or none that can be opened so
        return False
