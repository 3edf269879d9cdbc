"""Where the commit of a Kafka partition may stand: before the first message that is not accepted yet."""

from __future__ import annotations

from collections import deque


class Offsets:
    """Offsets grow, with gaps where the log was compacted. A commit names the next offset to be read."""

    def __init__(self) -> None:
        self.committed = -1
        self._open: deque[int] = deque()  # from the first that is not accepted
        self._accepted: set[int] = set()
        self._end = -1

    def deliver(self, offset: int) -> None:
        self._open.append(offset)
        self._end = offset + 1

    def accept(self, offset: int) -> None:
        if offset < self.position:
            return  # once more
        self._accepted.add(offset)
        while self._open and self._open[0] in self._accepted:
            self._accepted.discard(self._open.popleft())

    @property
    def position(self) -> int:
        """All below it are accepted; -1 before the first message."""
        return self._open[0] if self._open else self._end

    @property
    def moved(self) -> bool:
        """Whether a commit has something to tell."""
        return self.position > self.committed

    def __len__(self) -> int:
        """How many messages would come again if the source ended now, or have still to be worked on."""
        return len(self._open)
