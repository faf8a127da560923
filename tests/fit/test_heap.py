"""What claimed blocks would touch is counted, as the system would if they were written to."""

import os
import subprocess
import sys

import pytest

from trainer.fit.heap import LARGEST, Heap

pytestmark = pytest.mark.skipif(not Heap.is_here(), reason="tensors do not come from glibc here")
MB = 10**6


def test_what_was_touched_stays_and_is_used_again() -> None:
    heap = Heap()
    assert heap.resident == 0
    blocks = [heap.claim(5 * MB) for _ in range(10)]
    assert heap.resident == 50 * MB
    for block in blocks:
        assert block[0] % 64 == 0
    heap.free(blocks[3])
    assert heap.resident == 50 * MB
    smaller = heap.claim(5 * MB - 128)  # it fits into the hole, and there is hardly one that fits better
    assert heap.resident == 50 * MB
    for block in [*blocks[:3], *blocks[4:], smaller]:
        heap.free(block)


def test_a_block_above_the_largest_goes_back_to_the_system() -> None:
    heap = Heap()
    block = heap.claim(64 * LARGEST)
    assert heap.resident == 64 * LARGEST
    heap.free(block)
    assert heap.resident == 0


def test_nobody_touches_what_is_claimed() -> None:
    from trainer.fit.plan import resident_bytes

    heap, before = Heap(), resident_bytes()
    blocks = [heap.claim(20 * MB) for _ in range(50)]
    assert heap.resident == 1000 * MB
    assert resident_bytes() - before < 20 * MB
    for block in blocks:
        heap.free(block)


def test_the_end_of_the_heap_goes_back_when_it_is_free() -> None:
    """As it does under tensors: so many free bytes at its end are more than glibc keeps.

    In a process of its own, where no small object of another test holds the end, and without the C library's cache of
    small blocks: what is left beside an aligned block may lie in it and hold the end too.
    """
    script = (
        "from trainer.fit.heap import Heap; heap = Heap(); blocks = [heap.claim(30 * 10**6) for _ in range(20)]; "
        "[heap.free(block) for block in reversed(blocks)]; print(heap.resident)"
    )
    variables = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=variables)
    assert int(done.stdout) < 200 * MB


def test_ranges_that_meet_are_one() -> None:
    heap = Heap()
    for start, end in ((100, 200), (300, 400), (150, 350), (400, 500), (700, 800), (600, 900)):
        heap._touch(start, end)
    assert (heap._starts, heap._ends) == ([100, 600], [500, 900])
    assert heap.resident == 700
    heap._cut(650)
    assert (heap._starts, heap._ends, heap.resident) == ([100, 600], [500, 650], 450)
    heap._cut(50)
    assert heap.resident == 0
