"""GIF 87a and 89a: the first frame. Comments, applications and the other frames are left out."""

from __future__ import annotations

from whimbrel.transformers.containers.contents import Broken, Contents, joined, unpack

MAX_BLOCKS = 200_000  # of up to 255 bytes each

_HEADER_BYTES = 13
_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9


class _Walk:
    """Counts the blocks, so that a file of empty ones ends."""

    def __init__(self, content: bytes) -> None:
        self.content, self.blocks = content, 0

    def byte(self, position: int) -> int:
        (value,) = unpack("B", self.content, position)
        return value

    def end_of_blocks(self, position: int) -> int:
        """Behind the empty block that ends a row of them."""
        content = self.content
        while size := self.byte(position):
            position += 1 + size
            self.blocks += 1
            if self.blocks > MAX_BLOCKS:
                raise Broken(f"more than {MAX_BLOCKS} blocks")
        if position >= len(content):
            raise Broken(f"truncated: it ends at byte {len(content)}, inside a frame")
        return position + 1


def read(content: bytes) -> Contents:
    """Raises Broken."""
    width, height, flags = unpack("<HHB", content, 6)
    position = _HEADER_BYTES + _colours(flags)
    walk, kept, aside = _Walk(content), [(0, position)], list[bytes]()
    while (kind := walk.byte(position)) != _IMAGE:
        walk.blocks += 1
        if kind != _EXTENSION:
            raise Broken(f"no frame, but {kind:02x} at byte {position}")
        end = walk.end_of_blocks(position + 2)
        if walk.byte(position + 1) == _GRAPHIC_CONTROL:
            kept[1:] = [(position, end)]  # the last one before the frame counts
        else:
            aside.append(content[position:end])
        position = end
    left, top, across, down, flags = unpack("<HHHHB", content, position + 1)
    end = walk.end_of_blocks(position + 10 + _colours(flags) + 1)
    whole = joined(content, [*kept, (position, end)]) + bytes([_END])
    return Contents(max(width, left + across), max(height, top + down), whole, aside=(*aside, content[end:]))


def _colours(flags: int) -> int:
    """Bytes of the colour table that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
