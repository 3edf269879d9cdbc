"""After each start of the store: the objects that nothing came of are announced to the source once more."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from whimbrel.cli.console import say
from whimbrel.core.errors import Unavailable, WhimbrelError
from whimbrel.core.s3 import as_whimbrel_error, s3_client, sqs_client
from whimbrel.core.settings import S3Settings
from whimbrel.eventing.reconcile.announce import QueueAnnouncer, region_of
from whimbrel.eventing.reconcile.compare import Question, reconcile
from whimbrel.eventing.reconcile.look import Places
from whimbrel.eventing.reconcile.survey import Survey
from whimbrel.local.engine import Engine
from whimbrel.local.settling import Settling

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_AGAIN_SECONDS = 5.0


async def keep_announced(engine: Engine) -> None:
    """Until cancelled: once for each start of the embedded store, whose queue is empty then."""
    done: datetime | None = None
    while True:
        settling, begun = engine.settling, engine.store_begun()
        # Without a notification or a bucket of results there is nothing to announce, yet.
        if settling is not None and begun is not None and begun != done and await _announce(engine, settling, begun):
            done = begun
        await asyncio.sleep(_POLL_SECONDS)


async def _announce(engine: Engine, settling: Settling, begun: datetime) -> bool:
    """Whether it is done with, so that it need not be tried again; it ends early when the store ends meanwhile."""
    environment, stop = engine.status()["environment"], threading.Event()
    announcing = asyncio.create_task(asyncio.to_thread(announce_unsettled, environment, settling, begun, stop))
    try:
        while not announcing.done() and engine.store_begun() in (begun, None):
            await asyncio.wait({announcing}, timeout=_POLL_SECONDS)
        stop.set()
        announced = await announcing
    except Unavailable as error:
        logger.info("not all announced again yet: %s", error)
        await asyncio.sleep(_AGAIN_SECONDS)
        return False
    except WhimbrelError as error:
        logger.warning("objects without a result are not announced again: %s", error)
        return True
    finally:
        stop.set()
    if announced:
        say(f"{announced} objects without a result were announced again")
    return True


def announce_unsettled(
    environment: Mapping[str, str], settling: Settling, started: datetime, stop: threading.Event
) -> int:
    """How many objects of before `started` had neither result nor dead letter, all buckets together.

    Blocking, until `stop`. Raises NotFound for a bucket or queue that is not there, Unavailable when the store does
    not answer.
    """
    endpoint = environment["WHIMBREL_S3_ENDPOINT"]
    settings = S3Settings(s3_endpoint=endpoint)
    keys = (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    s3, sqs = s3_client(settings, credentials=keys), sqs_client(settings, endpoint, credentials=keys)
    return sum(
        _announce_bucket(s3, sqs, bucket, queue, settling, started, stop) for bucket, queue in settling.announced
    )


def _announce_bucket(
    s3: S3Client,
    sqs: SQSClient,
    bucket: str,
    queue: str,
    settling: Settling,
    started: datetime,
    stop: threading.Event,
) -> int:
    places = Places(
        settling.results_bucket, settling.results_prefix, settling.dead_letters_bucket, settling.dead_letters_prefix
    )
    question = Question(bucket, places, not_after=started)
    announcer = QueueAnnouncer(sqs, _queue_url(sqs, queue), region_of(s3, bucket), stop=stop)
    with closing(Survey(None, question.facts())) as survey:
        return reconcile(s3, question, survey, announce=announcer, stop=stop).emitted


def _queue_url(sqs: SQSClient, queue: str) -> str:
    try:
        return sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    except (BotoCoreError, ClientError) as error:
        raise as_whimbrel_error(error, f"announcing in queue {queue!r}") from error
