"""How good a package is on held-out pictures: counts, figures and the pictures worth a look; pure."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ACCURACY: Final = "held_out_accuracy"
TOP_K: Final = 5
SHOWN_MISTAKES: Final = 24
SHOWN_RIGHT: Final = 12
METRICS_OF_LABELS: Final = 50  # the registry's page draws a chart for each metric; past that, evaluation.json has them
_NO_METRIC_NAME = re.compile(r"[^A-Za-z0-9_. -]+")


@dataclass(frozen=True, slots=True)
class Answered:
    """One held-out picture. `indices`: the best answers, best first, with their `scores`. `pixels`: (H, W, 3) uint8,
    as the network was given it. `content`: digest of what it was before."""

    name: str
    content: bytes
    truth: int
    indices: Sequence[int]
    scores: Sequence[float]
    pixels: NDArray[np.uint8]

    @property
    def right(self) -> bool:
        return self.indices[0] == self.truth


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """`recall` is None where no picture has the label, `precision` where it was never answered."""

    label: str
    pictures: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Evaluation:
    """Of at least one picture. `confusion[truth, answer]` counts; `held_out_digest` says which pictures they were."""

    labels: tuple[str, ...]
    confusion: Mapping[tuple[int, int], int]
    in_top_k: int
    top_k: int
    mistakes: tuple[Answered, ...]
    right: tuple[Answered, ...]
    held_out_digest: str

    @property
    def images(self) -> int:
        return sum(self.confusion.values())

    @property
    def accuracy(self) -> float:
        return sum(count for (truth, answer), count in self.confusion.items() if truth == answer) / self.images

    @property
    def by_label(self) -> tuple[LabelFigures, ...]:
        of_truth, of_answer = Counter[int](), Counter[int]()
        for (truth, answer), count in self.confusion.items():
            of_truth[truth] += count
            of_answer[answer] += count
        return tuple(
            LabelFigures(
                label,
                of_truth[index],
                _share(self.confusion.get((index, index), 0), of_truth[index]),
                _share(self.confusion.get((index, index), 0), of_answer[index]),
            )
            for index, label in enumerate(self.labels)
        )

    @property
    def metrics(self) -> dict[str, float]:
        """For the registry. The means are over the labels that pictures have; one never answered has precision 0."""
        figures = [each for each in self.by_label if each.pictures]
        means = {
            "held_out_recall": sum(each.recall or 0 for each in figures) / len(figures),
            "held_out_precision": sum(each.precision or 0 for each in figures) / len(figures),
        }
        best = {ACCURACY: self.accuracy, "held_out_images": float(self.images)}
        if self.top_k > 1:
            best[f"held_out_top_{self.top_k}_accuracy"] = self.in_top_k / self.images
        return best | means | (_of_labels(self.by_label) if len(self.labels) <= METRICS_OF_LABELS else {})

    @property
    def document(self) -> dict[str, Any]:
        """`evaluation.json`. The confusion matrix is by truth, then by answer; what is not there is 0."""
        confusion: dict[str, dict[str, int]] = {}
        for (truth, answer), count in sorted(self.confusion.items()):
            confusion.setdefault(self.labels[truth], {})[self.labels[answer]] = count
        return {
            "schema": "whimbrel.dev/evaluation/v1",
            "held_out_digest": self.held_out_digest,
            "metrics": self.metrics,
            "labels": {
                each.label: {"pictures": each.pictures, "recall": each.recall, "precision": each.precision}
                for each in self.by_label
                if each.pictures or each.precision is not None
            },
            "confusion": confusion,
            "mistakes": [
                {
                    "picture": each.name,
                    "truth": self.labels[each.truth],
                    "answer": self.labels[each.indices[0]],
                    "score": round(each.scores[0], 6),
                }
                for each in self.mistakes
            ],
        }


@dataclass
class Tally:
    """Counts answers one by one, and keeps only the pictures that are shown."""

    labels: tuple[str, ...]
    _confusion: Counter[tuple[int, int]] = field(default_factory=Counter)
    _in_top_k: int = 0
    _mistakes: list[tuple[float, int, Answered]] = field(default_factory=list)
    _right: dict[int, Answered] = field(default_factory=dict)
    _contents: list[bytes] = field(default_factory=list)

    @property
    def top_k(self) -> int:
        return min(TOP_K, len(self.labels))

    def add(self, answered: Answered) -> None:
        self._contents.append(answered.content + answered.truth.to_bytes(4, "big"))
        self._confusion[answered.truth, answered.indices[0]] += 1
        self._in_top_k += answered.truth in answered.indices[: self.top_k]
        if answered.right:
            self._right.setdefault(answered.truth, answered)
            return
        # The surest first; of two that are as sure, the one that came first.
        heapq.heappush(self._mistakes, (answered.scores[0], -len(self._contents), answered))
        if len(self._mistakes) > SHOWN_MISTAKES:
            heapq.heappop(self._mistakes)

    def evaluation(self) -> Evaluation:
        sha256 = hashlib.sha256(b"".join(sorted(self._contents)))
        return Evaluation(
            labels=self.labels,
            confusion=dict(self._confusion),
            in_top_k=self._in_top_k,
            top_k=self.top_k,
            mistakes=tuple(answered for _, _, answered in sorted(self._mistakes, key=lambda each: each[:2])[::-1]),
            right=tuple(self._right[truth] for truth in sorted(self._right)[:SHOWN_RIGHT]),
            held_out_digest=f"sha256:{sha256.hexdigest()}",
        )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _of_labels(figures: Sequence[LabelFigures]) -> dict[str, float]:
    """By names that the registry takes; the part before the slash is a section of its page."""
    metrics: dict[str, float] = {}
    for index, each in enumerate(figures):
        name = _NO_METRIC_NAME.sub("_", each.label)
        unique = name if f"recall/{name}" not in metrics and f"precision/{name}" not in metrics else f"{name} {index}"
        found = {f"recall/{unique}": each.recall, f"precision/{unique}": each.precision}
        metrics |= {key: value for key, value in found.items() if value is not None}
    return metrics
