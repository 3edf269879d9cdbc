"""Results for tests, with only what a test cares about spelt out."""

from __future__ import annotations

from datetime import UTC, datetime

from whimbrel.core.results import Prediction, Result, ResultEvent, ResultModel, ResultObject


def result_of(
    key: str,
    *,
    bucket: str = "photos",
    etag: str = "e1",
    event_id: str = "1",
    time: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC),
    sequencer: int | None = None,
    source: str = "aws:s3.us-east-1.photos",
    model_digest: str = "sha256:" + "1" * 64,
    label: str = "seven",
) -> Result:
    return Result(
        object=ResultObject(bucket=bucket, key=key, etag=etag, size=5),
        event=ResultEvent(id=event_id, source=source, time=time, sequencer=sequencer),
        model=ResultModel(name="digits", version="1", digest=model_digest),
        predictions=(Prediction(label=label, index=7, score=0.9),),
        timing_ms={"all": 3.0},
    )
