"""The memory that batches are joined in is used again, and never while somebody still reads it."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")


@pytest.fixture
def buffers() -> Any:
    from whimbrel.predictors.staging import StagingBuffers

    return StagingBuffers(torch.device("cpu"))


def images(value: int, count: int = 2) -> Any:
    return np.full((count, 4, 4, 3), value, np.uint8)


def address(staged: Any) -> int:
    return int(staged._images.data_ptr())


def test_parts_are_joined_in_their_order(buffers: Any) -> None:
    staged = buffers.stage([images(1), images(2, 1)])
    assert len(staged) == 3
    with staged.on_device() as pixels:
        assert pixels[:, 0, 0, 0].tolist() == [1, 1, 2]


def test_memory_that_was_read_is_used_again_for_a_smaller_batch(buffers: Any) -> None:
    first = buffers.stage([images(1, 3)])
    with first.on_device():
        pass
    second = buffers.stage([images(2)])
    assert address(second) == address(first)
    with second.on_device() as pixels:
        assert pixels.shape == (2, 4, 4, 3)


def test_memory_that_nobody_has_read_yet_is_left_alone(buffers: Any) -> None:
    first, second, third = (buffers.stage([images(value)]) for value in (1, 2, 3))
    assert len({address(each) for each in (first, second, third)}) == 3
    for staged, value in ((first, 1), (second, 2), (third, 3)):
        with staged.on_device() as pixels:
            assert (pixels == value).all()


def test_a_batch_that_is_dropped_gives_its_memory_back(buffers: Any) -> None:
    dropped = buffers.stage([images(1)])
    before = address(dropped)
    del dropped
    gc.collect()
    assert address(buffers.stage([images(2)])) == before


def test_what_is_kept_is_bounded_and_the_largest(buffers: Any) -> None:
    from whimbrel.predictors.staging import MOST_KEPT

    staged = [buffers.stage([images(1, count)]) for count in (1, 5, 3, 4)]
    for each in staged:
        with each.on_device():
            pass
    next_one = buffers.stage([images(1, 6)])
    assert [len(each.pixels) // 48 for each in buffers._free] == [4, 5]
    assert len(buffers._free) == MOST_KEPT
    assert len(next_one) == 6


def test_a_batch_that_a_collection_finds_gives_back_wherever_that_happens(buffers: Any) -> None:
    """A batch that failed lies in a cycle with its error; who takes memory at that moment may be the one to collect."""
    lost = [buffers.stage([images(1)])]
    before = address(lost[0])
    lost.append(lost)
    del lost

    def collect() -> None:
        with buffers._lock:
            gc.collect()

    collecting = threading.Thread(target=collect, daemon=True)
    collecting.start()
    collecting.join(30)
    assert not collecting.is_alive()
    assert address(buffers.stage([images(2)])) == before


def test_memory_whose_copy_is_not_done_is_left_alone(buffers: Any) -> None:
    class Copied:
        done = False

        def query(self) -> bool:
            return self.done

    with buffers.stage([images(1)]).on_device() as pixels:
        first = pixels.data_ptr()
    (kept,) = buffers._returned
    kept.copied = Copied()
    other = buffers.stage([images(2)])
    assert address(other) != first
    kept.copied.done = True
    assert address(buffers.stage([images(3)])) == first
