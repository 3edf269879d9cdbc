"""From where a request says that an image is to its bytes, admitted against the bytes held by all requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from whimbrel.core import tracing
from whimbrel.core.budget import LEAST_BYTES, Budget
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.core.references import ObjectRef
from whimbrel.transformers.fetch import ObjectGone, ObjectReader
from whimbrel.transformers.inputs import ImageSource, Url
from whimbrel.transformers.timing import FETCH, Timing

ANY_BUCKET = "*"

FetchUrl = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Images:
    """`buckets` are those that a request may name objects of; events are not bound by it."""

    reader: ObjectReader
    fetch_url: FetchUrl
    buckets: tuple[str, ...]
    held_bytes: Budget
    max_image_bytes: int

    @asynccontextmanager
    async def opened(self, source: ImageSource, timing: Timing) -> AsyncIterator[bytes]:
        """The encoded image, its bytes granted for the length of a block.

        Raises InputRefused for a bucket or host that the settings do not allow, NotFound, and what fetching raises.
        """
        size = len(source) if isinstance(source, bytes) else self.max_image_bytes
        async with self.held_bytes.held(max(LEAST_BYTES, size)):
            if isinstance(source, bytes):
                yield source
            else:
                with timing.stage(FETCH), tracing.span("transformer.fetch"):
                    content = await self._fetched(source)
                yield content

    async def _fetched(self, source: Url | ObjectRef) -> bytes:
        if isinstance(source, Url):
            return await self.fetch_url(source.url)
        if source.bucket not in self.buckets and ANY_BUCKET not in self.buckets:
            raise InputRefused(
                f"expected an object of a bucket that requests may name, seen {source.uri};"
                " set WHIMBREL_REFERENCE_BUCKETS to allow it"
            )
        try:
            return (await self.reader.fetch(source)).content
        except ObjectGone as gone:
            raise NotFound(str(gone)) from None
