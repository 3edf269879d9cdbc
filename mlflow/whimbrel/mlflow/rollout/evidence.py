"""Tests that may be looked at after every observation: evidence about the mean of bounded values, by betting; pure.

A fixed-size test that is looked at again and again rejects a true hypothesis sooner or later. A betting test does not:
a gambler starts with 1 and stakes a share of his money on each next observation, at odds that are fair when the
hypothesis holds. His wealth then passes 1/alpha, ever, with probability alpha at most (Ville's inequality), however
often it is looked at and whenever one stops. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", J. R. Stat. Soc. B 86 (2024), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

# One gambler for each stake, from timid to bold, in shares of what can be lost at most; their mean is the wealth.
STAKES: Final = np.geomspace(0.005, 0.95, 24)


@dataclass
class Bet:
    """Evidence against "the mean is at most `bound`", of values in [`lowest`, `highest`].

    Values may depend on those before them: only the mean of the next one, given all before, has to keep the hypothesis.
    """

    bound: float
    lowest: float = -1.0
    highest: float = 1.0
    count: int = 0
    _log_wealth: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(STAKES)), repr=False)

    def __post_init__(self) -> None:
        if not self.lowest < self.bound < self.highest:
            raise ValueError(f"expected a bound between {self.lowest} and {self.highest}, seen {self.bound}")

    def add(self, seen: Mapping[float, int]) -> None:
        """How often each value was seen: the order is of no account. Raises ValueError for a value out of the range."""
        if not seen:
            return
        values, counts = np.array(list(seen), dtype=np.float64), np.array(list(seen.values()))
        if not (values.min() >= self.lowest and values.max() <= self.highest):
            raise ValueError(
                f"expected values in [{self.lowest}, {self.highest}], seen {values.min()} to {values.max()}"
            )
        gains = (values - self.bound) / (self.bound - self.lowest)  # -1 at worst
        self._log_wealth += np.log1p(STAKES[:, None] * gains[None, :]) @ counts
        self.count += int(counts.sum())

    @property
    def log_evidence(self) -> float:
        """The logarithm of the gamblers' mean wealth now."""
        most = float(self._log_wealth.max())
        return most + float(np.log(np.mean(np.exp(self._log_wealth - most))))

    def rejects(self, alpha: float) -> bool:
        """Whether the mean is above `bound`. Wrong, at any time ever, with probability `alpha` at most."""
        return self.log_evidence >= -float(np.log(alpha))


def interval(
    seen: Mapping[float, int], alpha: float, lowest: float = -1.0, highest: float = 1.0
) -> tuple[float, float]:
    """What the mean is, with confidence 1 - `alpha`, all looks so far and to come counted: (from, to).

    The bounds that neither bet rejects at alpha / 2, on a grid of a thousandth of the range.
    """
    bounds = np.linspace(lowest, highest, 1001)[1:-1]
    least = _smallest_not_rejected(seen, bounds, lowest, highest, alpha / 2)
    mirrored = {-value: count for value, count in seen.items()}
    most = _smallest_not_rejected(mirrored, -bounds[::-1], -highest, -lowest, alpha / 2)
    return least, -most


def _smallest_not_rejected(
    seen: Mapping[float, int], bounds: NDArray[np.float64], lowest: float, highest: float, alpha: float
) -> float:
    """By bisection: the evidence against a bound falls as the bound rises."""
    below, above = -1, len(bounds)
    while above - below > 1:
        middle = (below + above) // 2
        bet = Bet(float(bounds[middle]), lowest, highest)
        bet.add(seen)
        below, above = (middle, above) if bet.rejects(alpha) else (below, middle)
    return lowest if above == 0 else highest if above == len(bounds) else float(bounds[above])
