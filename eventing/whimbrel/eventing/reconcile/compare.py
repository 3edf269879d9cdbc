"""The comparison from its begin, or from where it was killed, to its report. Blocking."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.core.references import path_of_key
from whimbrel.core.results import BY_VERSION
from whimbrel.core.s3 import as_whimbrel_error
from whimbrel.eventing.listing import folder, page
from whimbrel.eventing.reconcile.look import Places, look
from whimbrel.eventing.reconcile.objects import Listed, pages
from whimbrel.eventing.reconcile.survey import Outcome, Row, Survey

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

RESULTS, OBJECTS, AGAIN = "results", "objects", "looked at again"  # the steps
_BATCH: Final = 100  # looked at, announced and concluded together; what a kill repeats at most
_LOOKS_AT_ONCE: Final = 8
_MOST_FOLDERS: Final = 256  # characters: a result's key keeps at least so many of a long key as they are

Concluded = tuple[Row, Outcome, str]
# Announces rows and yields what became of each as it becomes known: EMITTED, or REFUSED with the reason. A row that it
# leaves out stays missing. It raises only after it has yielded all that it knows.
Announce = Callable[[Sequence[Row]], Iterator[Concluded]]
# Told the step, how much of it is done and, where that is known, how much it is in all.
Watch = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class Question:
    """Which objects, and where what came of them lies.

    Objects modified later than `not_after`, to the second as stores tell it, are left out.
    """

    bucket: str
    places: Places
    key_prefix: str = ""
    key_suffix: str = ""
    not_after: datetime | None = None

    def facts(self) -> dict[str, str]:
        """What a cursor belongs to: a comparison with another question must not go on from it."""
        return {name: str(value) for name, value in (asdict(self) | asdict(self.places)).items() if name != "places"}


@dataclass(frozen=True, slots=True)
class Report:
    """Object versions. `gone` have a record that they were, in a bucket with versions, and are listed all the same.

    `missing` have neither result nor dead letter; of them `emitted` were announced and taken.

    `refused` were announced and never will be taken; `unusable` have keys that no event can name.
    """

    objects: int
    results: int
    gone: int
    dead_letters: int
    missing: int
    emitted: int
    refused: int
    unusable: int

    @property
    def complete(self) -> bool:
        """Each object has an outcome, or was announced to somebody who took it."""
        return self.missing == self.emitted and not self.unusable


def reconcile(
    client: S3Client,
    question: Question,
    survey: Survey,
    *,
    announce: Announce | None = None,
    stop: threading.Event | None = None,
    watch: Watch = lambda *_: None,
) -> Report:
    """Compare, and announce what is missing; ends early, with what it knows, once `stop` is set.

    Raises NotFound when a bucket is missing, Unavailable when the store does not answer; what was found stays in
    `survey`, so the same call goes on.
    """
    stop = stop or threading.Event()
    with _failures_as_ours(question.bucket):
        _list_results(client, question, survey, stop, watch)
        _list_objects(client, question, survey, stop, watch)
        if survey.position(OBJECTS) is None:  # not stopped before all were listed
            _settle(client, question, survey, stop, watch, announce=announce)
    report = report_of(survey)
    _log.info("reconciled", extra=asdict(report))
    return report


def report_of(survey: Survey) -> Report:
    count = {outcome: survey.count(outcome) for outcome in Outcome}
    announced = count[Outcome.EMITTED] + count[Outcome.REFUSED]
    return Report(
        objects=sum(count.values()),
        results=count[Outcome.RESULT],
        gone=count[Outcome.GONE],
        dead_letters=count[Outcome.DEAD_LETTER],
        missing=count[Outcome.UNSEEN] + count[Outcome.MISSING] + announced,
        emitted=count[Outcome.EMITTED],
        refused=count[Outcome.REFUSED],
        unusable=count[Outcome.UNUSABLE],
    )


def _list_results(client: S3Client, question: Question, survey: Survey, stop: threading.Event, watch: Watch) -> None:
    """Remember the folder of each object version that is settled."""
    places, position, listed = question.places, survey.position(RESULTS), 0
    root = f"{folder(places.prefix_of(question.bucket))}{BY_VERSION}/{_plain_folder(question.key_prefix)}"
    while position is not None and not stop.is_set():
        found, more = page(client, places.results_bucket, root, position.get("StartAfter", ""))
        names = (entry.key.rpartition("/") for entry in found)
        judged = ((folder_, places.settled_by(name)) for folder_, _, name in names)
        position = {"StartAfter": found[-1].key} if more else None
        survey.add_settled([(each, outcome) for each, outcome in judged if outcome], RESULTS, position)
        listed += len(found)
        watch(RESULTS, listed, None)


def _plain_folder(key_prefix: str) -> str:
    """The folders that a prefix begins with, where results have the same; else all results are listed."""
    folders = key_prefix.rpartition("/")[0]
    is_same = len(folders) < _MOST_FOLDERS and path_of_key(folders) == folders
    return f"{folders}/" if folders and is_same else ""


def _list_objects(client: S3Client, question: Question, survey: Survey, stop: threading.Event, watch: Watch) -> None:
    position, listed = survey.position(OBJECTS), 0
    if position is None:
        return
    for each in pages(client, question.bucket, question.key_prefix, position):
        if stop.is_set():
            return
        wanted = [listed for listed in each.objects if _is_asked_for(listed, question)]
        judged = [(listed, _settled(question.places, survey, listed)) for listed in wanted]
        settled = Counter(outcome for _, outcome in judged if outcome is not None)
        unusable = [(key, why) for key, why in each.unusable if key.endswith(question.key_suffix)]
        survey.add_objects(settled, [each for each, known in judged if known is None], unusable, OBJECTS, each.next)
        listed += len(wanted)
        watch(OBJECTS, listed, None)


def _settled(places: Places, survey: Survey, listed: Listed) -> Outcome | None:
    outcome = survey.settled(places.folder_of(listed.ref))
    return outcome if places.settles(outcome, listed.ref) else None


def _is_asked_for(listed: Listed, question: Question) -> bool:
    if not listed.ref.key.endswith(question.key_suffix):
        return False
    return question.not_after is None or listed.modified.replace(microsecond=0) <= question.not_after


def _settle(
    client: S3Client,
    question: Question,
    survey: Survey,
    stop: threading.Event,
    watch: Watch,
    *,
    announce: Announce | None,
) -> None:
    """Look once more at each object without a result, as it may have one by now or be a dead letter."""
    asked = (Outcome.MISSING, Outcome.UNSEEN) if announce else (Outcome.UNSEEN,)
    total, done = sum(survey.count(outcome) for outcome in asked), 0
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, "look") as threads:
        for outcome in asked:
            after = 0
            while not stop.is_set() and (rows := survey.next_rows(outcome, question.bucket, _BATCH, after)):
                outcomes = threads.map(lambda row: look(client, question.places, row.listed), rows)
                seen = list(zip(rows, outcomes, strict=True))
                survey.conclude((row.number, now, "") for row, now in seen)
                missing = [row for row, now in seen if now is Outcome.MISSING]
                if announce is not None:
                    _announce(announce, missing, survey)
                after, done = rows[-1].number, done + len(rows)
                watch(AGAIN, done, total)


def _announce(announce: Announce, rows: Sequence[Row], survey: Survey) -> None:
    concluded: list[Concluded] = []
    try:
        for each in announce(rows):
            concluded.append(each)
    finally:
        survey.conclude((row.number, outcome, why) for row, outcome, why in concluded)


@contextmanager
def _failures_as_ours(bucket: str) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"comparing bucket {bucket!r} with its results") from error
