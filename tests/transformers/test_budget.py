"""The budget that bounds memory, and the decoder that is admitted against it."""

from __future__ import annotations

import asyncio
from io import BytesIO

import pytest
from PIL import Image

from whimbrel.core.budget import MAX_WAITING, Budget
from whimbrel.core.errors import Unavailable, UndecodableImage
from whimbrel.core.package import Preset
from whimbrel.transformers import decoder as decoder_module
from whimbrel.transformers.decode import Limits
from whimbrel.transformers.decoder import Decoded, Decoder

pytestmark = pytest.mark.anyio


def budget_of(total: int, seconds: float = 10.0) -> Budget:
    return Budget(total, "bytes", max_wait_seconds=seconds)


async def turns() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_grants_what_is_free_and_all_there_is_for_more() -> None:
    budget = budget_of(10)
    assert await budget.take(4) == 4
    assert budget.free == 6
    budget.give_back(4)
    assert await budget.take(1000) == 10


async def test_grants_in_the_order_of_asking() -> None:
    budget, granted = budget_of(10), list[int]()

    async def ask(amount: int) -> None:
        granted.append(await budget.take(amount))

    await budget.take(8)
    tasks = []
    for amount in (9, 1, 2):
        tasks.append(asyncio.create_task(ask(amount)))
        await turns()
    assert granted == []  # 2 are free, but the large one came first
    budget.give_back(8)
    await turns()
    assert granted == [9, 1]
    budget.give_back(9)
    await asyncio.gather(*tasks)
    assert granted == [9, 1, 2]
    assert budget.free == 10 - 1 - 2


async def test_a_wait_is_bounded_and_leaves_nothing_behind() -> None:
    budget = budget_of(10, seconds=0.01)
    await budget.take(10)
    with pytest.raises(Unavailable, match=r"expected 3 of 10 bytes to become free within 0\.01 s") as refused:
        await budget.take(3)
    assert refused.value.headers() == {"retry-after": "2"}
    budget.give_back(10)
    assert await budget.take(10) == 10


async def test_who_is_cancelled_takes_nothing_even_when_it_was_just_granted() -> None:
    budget = budget_of(10)
    await budget.take(10)
    waiting = [asyncio.create_task(budget.take(6)) for _ in range(2)]
    await turns()
    waiting[0].cancel()
    budget.give_back(10)
    assert await waiting[1] == 6
    late = asyncio.create_task(budget.take(6))
    await turns()
    budget.give_back(6)
    late.cancel()
    await asyncio.gather(late, waiting[0], return_exceptions=True)
    assert budget.free == 10


async def test_the_queue_is_bounded() -> None:
    budget = budget_of(1)
    await budget.take(1)
    waiting = [asyncio.create_task(budget.take(1)) for _ in range(MAX_WAITING)]
    await turns()
    with pytest.raises(Unavailable, match=f"{MAX_WAITING} waiting"):
        await budget.take(1)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert budget.free == 0


async def test_held_gives_back_after_an_error() -> None:
    budget = budget_of(5)
    with pytest.raises(ZeroDivisionError):
        async with budget.held(3):
            assert budget.free == 2
            raise ZeroDivisionError
    assert budget.free == 5


def png(width: int, height: int) -> bytes:
    target = BytesIO()
    Image.new("L", (width, height), 7).save(target, "PNG")
    return target.getvalue()


MEBI = 1024 * 1024
EIGHT = Preset(height=8, width=8)


async def test_decoding_gives_its_memory_back_whatever_comes_of_it() -> None:
    budget = budget_of(3 * MEBI)
    decoder = Decoder(Limits(), budget, threads=2, max_seconds=30)
    whole = png(200, 200)
    broken = bytearray(whole)
    broken[-30] ^= 1  # in the pixels: found when they are decoded
    outcomes = await asyncio.gather(
        *(decoder.decode(bytes(content), EIGHT) for content in (whole, broken, whole, broken)), return_exceptions=True
    )
    seen = [each.pixels.shape if isinstance(each, Decoded) else type(each) for each in outcomes]
    assert seen == [(8, 8, 3), UndecodableImage] * 2
    await turns()
    assert budget.free == 3 * MEBI
    decoder.close()


async def test_an_image_whose_memory_does_not_become_free_is_told_to_come_back() -> None:
    budget = budget_of(3 * MEBI, seconds=0.01)
    decoder = Decoder(Limits(), budget, threads=1, max_seconds=30)
    await budget.take(MEBI)
    with pytest.raises(Unavailable, match=r"expected 23\d{5} of 3145728 bytes to become free"):
        await decoder.decode(png(200, 200), EIGHT)
    decoder.close()


async def test_an_image_that_takes_more_memory_than_there_is_is_refused() -> None:
    budget = budget_of(2 * MEBI)
    decoder = Decoder(Limits(), budget, threads=1, max_seconds=30)
    with pytest.raises(UndecodableImage, match=r"decodes in 2097152 bytes of memory, seen a png of 1000 x 1000 pixels"):
        await decoder.decode(png(1000, 1000), EIGHT)
    assert budget.free == 2 * MEBI
    decoder.close()


async def test_a_decoding_that_takes_too_much_time_is_refused_and_keeps_its_memory_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image is large, the limit tiny: the thread goes on after the refusal."""
    budget = budget_of(1024 * MEBI, seconds=30)
    decoder = Decoder(Limits(), budget, threads=1, max_seconds=0.005)
    monkeypatch.setattr(decoder_module, "_PATIENCE", 1000)
    with pytest.raises(UndecodableImage, match=r"decodes within 0.005 s"):
        await decoder.decode(png(6000, 6000), Preset(height=2000, width=2000, interpolation="bicubic"))
    assert budget.free < 1024 * MEBI
    assert await budget.take(1024 * MEBI) == 1024 * MEBI  # all of it, once the thread has ended
    decoder.close()
