"""Where the C library puts the tensors of a step: the pages that they touch, with the holes between them.

glibc asks its heap for 96 bytes more than a tensor has, for an aligned place in them, and gives the rest back. Small
objects take that rest, so the hole that a tensor leaves is often too small for the next one of the same size: the heap
grows beyond what it holds, and what it grew by stays with the process. How far hangs on every small object there is. So
the heap itself is asked: it gets the same requests, between the objects of the real graph, and nobody touches a page.
"""

from __future__ import annotations

import bisect
import ctypes
import platform
from typing import Any

ALIGNED = 64  # bytes, of torch's tensors on a CPU
LARGEST = 2**25  # glibc's DEFAULT_MMAP_THRESHOLD_MAX: above it a block comes from the system and goes back there


class Heap:
    """Claims blocks without touching them, and counts what would be resident if their owners had written to them.

    Attributes:
        resident: bytes of all pages of the heap that ever lay under a block, and of the system's blocks now.
    """

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(None)
        self._library.sbrk.restype = ctypes.c_void_p
        self._library.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._library.free.argtypes = [ctypes.c_void_p]
        self._starts: list[int] = []  # of touched ranges of addresses, in order and apart
        self._ends: list[int] = []
        self._touched = self._outside = 0
        self.free(self.claim(LARGEST - 2**16))  # as after a step: from now on only larger blocks are the system's
        self._starts, self._ends, self._touched = [], [], 0

    @staticmethod
    def is_here() -> bool:
        """Whether tensors on the CPU come from glibc."""
        return platform.libc_ver()[0] == "glibc"

    @property
    def resident(self) -> int:
        """As above."""
        return self._touched + self._outside

    def claim(self, size: int) -> tuple[int, int]:
        """A block's address, 0 where there is no room for it, and its size."""
        found = ctypes.c_void_p()
        self._library.posix_memalign(ctypes.byref(found), ALIGNED, size)
        block = found.value or 0, size
        if self._is_outside(block):
            self._outside += size
        elif block[0]:
            self._touch(block[0], block[0] + size)
        return block

    def free(self, block: tuple[int, int]) -> None:
        """Give it back."""
        if self._is_outside(block):
            self._outside -= block[1]
        self._library.free(block[0] or None)
        self._cut(self._library.sbrk(0))

    def _is_outside(self, block: tuple[int, int]) -> bool:
        """The system's own blocks lie above the heap."""
        return block[0] > int(self._library.sbrk(0))

    def _touch(self, start: int, end: int) -> None:
        first, last = bisect.bisect_left(self._ends, start), bisect.bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        old = zip(self._starts[first:last], self._ends[first:last], strict=True)
        self._touched += end - start - sum(right - left for left, right in old)
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def _cut(self, top: int) -> None:
        """The heap gives its end back to the system when much of it is free."""
        while self._ends and self._ends[-1] > top:
            start, end = self._starts.pop(), self._ends.pop()
            self._touched -= end - max(start, top)
            if start < top:
                self._starts.append(start)
                self._ends.append(top)
                return
