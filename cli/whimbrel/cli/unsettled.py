"""After a start: the objects that nothing came of are announced to the source once more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from whimbrel.cli.options import DEAD_LETTERS, PHOTOS, RESULTS
from whimbrel.core.result_store import ResultStore
from whimbrel.core.s3 import s3_client, sqs_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.store.reconcile import reconcile


def announce_unsettled(environment: Mapping[str, str], started: datetime) -> int:
    """How many objects of before `started` had neither result nor dead letter: the queue forgets when its store ends.

    Blocking. Raises Unavailable when the store does not answer.
    """
    endpoint = environment["WHIMBREL_S3_ENDPOINT"]
    settings = S3Settings(s3_endpoint=endpoint)
    keys = (environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
    s3, sqs = s3_client(settings, credentials=keys), sqs_client(settings, endpoint, credentials=keys)
    queue_url = sqs.get_queue_url(QueueName=PHOTOS)["QueueUrl"]
    report = reconcile(
        s3,
        sqs,
        bucket=PHOTOS,
        queue_url=queue_url,
        results=ResultStore(s3, RESULTS),
        dead_letters_bucket=DEAD_LETTERS,
        not_after=started,
    )
    return report.announced
