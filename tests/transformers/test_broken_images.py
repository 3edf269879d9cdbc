"""Any bytes at all: an image of the preset's shape or one of our refusals; no other exception, no end without one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.broken_images import flipped, swapped_header, truncations, whole_images
from whimbrel.core.errors import InputRefused
from whimbrel.core.package import Preset
from whimbrel.transformers.decode import Limits, decode, open_image
from whimbrel.transformers.formats import FORMATS

LIMITS = Limits(max_bytes=2_000_000, max_pixels=1_000_000)
PRESET = Preset(height=6, width=9)
NAMES = sorted(whole_images())

SIGNATURES = sorted({content[:4] for content in whole_images().values()})


def outcome(content: bytes) -> str:
    try:
        decoded = decode(content, PRESET, LIMITS)
    except InputRefused as refused:
        assert refused.status in (415, 422)
        assert len(str(refused)) < 400
        return refused.reason
    assert decoded.shape == (6, 9, 3)
    return "decoded"


@pytest.mark.parametrize("name", NAMES)
def test_cut_off_anywhere(name: str) -> None:
    """Nothing that lacks a part of its pixels is taken for whole."""
    content = whole_images()[name]
    first_picture = FORMATS[name.partition(" ")[0]].read(content).content
    seen = Counter(outcome(cut) for cut in truncations(content[: len(first_picture) * 9 // 10]))
    assert seen["decoded"] == 0
    assert seen["UndecodableImage"] > 50


@pytest.mark.parametrize("name", NAMES)
def test_changed_bytes(name: str) -> None:
    outcomes = Counter(outcome(flipped(whole_images()[name], seed)) for seed in range(120))
    assert outcomes["UndecodableImage"] > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [4, 12, 40])
def test_the_head_of_another_format(name: str, length: int) -> None:
    for other in NAMES:
        outcome(swapped_header(whole_images()[name], whole_images()[other], length))


@settings(max_examples=200, deadline=None)
@given(
    first=st.sampled_from(NAMES),
    second=st.sampled_from(NAMES),
    cut=st.integers(0, 2000),
    seed=st.integers(0, 2**32),
    tail=st.binary(max_size=64),
)
def test_parts_of_two_files_with_changed_bytes(first: str, second: str, cut: int, seed: int, tail: bytes) -> None:
    outcome(flipped(whole_images()[first][:cut] + whole_images()[second][cut:] + tail, seed))


@settings(max_examples=200, deadline=None)
@given(signature=st.sampled_from(SIGNATURES), content=st.binary(max_size=400))
def test_anything_behind_a_signature(signature: bytes, content: bytes) -> None:
    assert outcome(signature + content) in ("UndecodableImage", "UnsupportedImage")


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32))
def test_no_header_claims_more_memory_than_its_pixels_can_take(name: str, seed: int) -> None:
    """Even the most costly format takes less than 32 bytes a pixel, tiles of a small picture and copies apart."""
    try:
        opened = open_image(flipped(whole_images()[name], seed), PRESET, LIMITS)
    except InputRefused:
        return
    assert opened.memory < 32 * LIMITS.max_pixels + 32 * 2**20
