"""The embedded store: what it holds after a kill is what it answered before."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from testbed.embedded import embedded_store, kill_and_restart
from testbed.processes import running
from testbed.stores import CREDENTIALS, Store
from whimbrel.core.records import parse_notification
from whimbrel.core.s3 import error_code, s3_client
from whimbrel.core.settings import S3Settings
from whimbrel.local.store.application import HEALTH_PATH

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024 * 1024
PARTS = [b"a" * (5 * MIB), b"b" * 100]
QUEUE_ARN = "arn:aws:sqs:us-east-1:123456789012:photos"
KEYS = ["a.jpg", "a b+c.jpg", "grün/🐦.jpg", "x//y", "trailing/", "%2F.txt", "a&b=c?d#e", "../up"]


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Store]:
    with embedded_store(tmp_path / "store") as started:
        started.s3().create_bucket(Bucket="photos")
        yield started


def impatient_s3(store: Store) -> S3Client:
    """A client that does not try again: it tells what was answered."""
    return s3_client(S3Settings(s3_endpoint=store.endpoint, s3_max_attempts=1))


def contents(s3: S3Client) -> dict[str, Any]:
    """Everything that a client can see of the objects."""
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="photos"):
        for listed in page.get("Contents", []):
            answer = s3.get_object(Bucket="photos", Key=listed["Key"])
            tags = s3.get_object_tagging(Bucket="photos", Key=listed["Key"])["TagSet"]
            in_parts = "-" in listed["ETag"]  # moto fails to tell the ACL of those
            grants = in_parts or s3.get_object_acl(Bucket="photos", Key=listed["Key"])["Grants"]
            seen = {
                name: answer.get(name)
                for name in ("ETag", "LastModified", "ContentType", "Metadata", "CacheControl", "StorageClass")
            }
            found[listed["Key"]] = (answer["Body"].read(), seen, tags, grants, listed["LastModified"])
    return found


@dataclass(frozen=True)
class Life:
    """A store that was killed and started again, and what clients saw before."""

    store: Store
    folder: Path
    objects: dict[str, Any]
    configuration: dict[str, Any]
    abandoned_upload: str


@pytest.fixture(scope="module")
def second_life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("second-life") / "store"
    with embedded_store(folder) as store:
        s3 = store.s3()
        s3.create_bucket(Bucket="photos")
        put_objects(s3)
        upload_by_form(store)
        abandoned = upload_in_parts(s3)
        configure(store)
        before = contents(s3), configuration(store)
        kill_and_restart(store)
        yield Life(store, folder, *before, abandoned)


def put_objects(s3: S3Client) -> None:
    for key in KEYS:
        s3.put_object(
            Bucket="photos",
            Key=key,
            Body=key.encode(),
            ContentType="image/jpeg",
            CacheControl="no-store",
            Metadata={"who": "me"},
            Tagging="a=b&c=d",
            ACL="public-read",
            StorageClass="STANDARD_IA",
        )
    s3.copy_object(Bucket="photos", Key="copied", CopySource={"Bucket": "photos", "Key": "a b+c.jpg"})
    s3.put_object_tagging(Bucket="photos", Key="x//y", Tagging={"TagSet": [{"Key": "now", "Value": "this"}]})
    s3.delete_object_tagging(Bucket="photos", Key="trailing/")
    s3.put_object_acl(Bucket="photos", Key="%2F.txt", ACL="private")
    s3.put_object(Bucket="photos", Key="a.jpg", Body=b"replaced")
    for key in ("gone", "gone1", "gone2", "kept"):
        s3.put_object(Bucket="photos", Key=key, Body=b"")
    s3.delete_object(Bucket="photos", Key="gone")
    s3.delete_objects(Bucket="photos", Delete={"Objects": [{"Key": "gone1"}, {"Key": "gone2"}]})


def upload_by_form(store: Store) -> None:
    form = {"key": "form.txt", "Content-Type": "text/plain"}
    files = {"file": ("form.txt", b"hello", "text/plain")}
    assert httpx.post(f"{store.endpoint}/photos", data=form, files=files).status_code == 204


def upload_in_parts(s3: S3Client) -> str:
    """One upload that is completed, and the id of one that is not."""
    upload = s3.create_multipart_upload(Bucket="photos", Key="big", ContentType="x/y")["UploadId"]
    etags = [
        s3.upload_part(Bucket="photos", Key="big", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        for number, part in enumerate(PARTS, 1)
    ]
    s3.complete_multipart_upload(
        Bucket="photos",
        Key="big",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]},
    )
    return s3.create_multipart_upload(Bucket="photos", Key="other")["UploadId"]


def configure(store: Store) -> None:
    s3, sqs = store.s3(), store.sqs()
    queue = sqs.create_queue(QueueName="photos", Attributes={"VisibilityTimeout": "77"})["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"ReceiveMessageWaitTimeSeconds": "3"})
    sqs.delete_queue(QueueUrl=sqs.create_queue(QueueName="gone")["QueueUrl"])
    s3.create_bucket(Bucket="elsewhere", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.create_bucket(Bucket="gone")
    s3.put_bucket_tagging(Bucket="gone", Tagging={"TagSet": []})
    s3.delete_bucket(Bucket="gone")
    notification: Any = {
        "Id": "n",
        "QueueArn": QUEUE_ARN,
        "Events": ["s3:ObjectCreated:*"],
        "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": ".jpg"}]}},
    }
    s3.put_bucket_notification_configuration(
        Bucket="photos", NotificationConfiguration={"QueueConfigurations": [notification]}
    )
    s3.put_bucket_tagging(Bucket="photos", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    s3.put_bucket_policy(Bucket="photos", Policy=policy)
    s3.put_bucket_policy(Bucket="elsewhere", Policy=policy)
    s3.delete_bucket_policy(Bucket="elsewhere")
    rule: Any = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 3}}
    s3.put_bucket_lifecycle_configuration(Bucket="photos", LifecycleConfiguration={"Rules": [rule]})
    s3.put_bucket_cors(
        Bucket="photos",
        CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["http://a"]}]},
    )


def configuration(store: Store) -> dict[str, Any]:
    """Everything that a client can see of it."""
    s3, sqs = store.s3(), store.sqs()
    queue = sqs.get_queue_url(QueueName="photos")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    return {
        "buckets": [(bucket["Name"], bucket["CreationDate"]) for bucket in s3.list_buckets()["Buckets"]],
        "region": s3.get_bucket_location(Bucket="elsewhere")["LocationConstraint"],
        "notification": s3.get_bucket_notification_configuration(Bucket="photos")["QueueConfigurations"],
        "tags": s3.get_bucket_tagging(Bucket="photos")["TagSet"],
        "policy": json.loads(s3.get_bucket_policy(Bucket="photos")["Policy"]),
        "lifecycle": s3.get_bucket_lifecycle_configuration(Bucket="photos")["Rules"],
        "cors": s3.get_bucket_cors(Bucket="photos")["CORSRules"],
        "queues": sqs.list_queues()["QueueUrls"],
        "queue": [attributes[name] for name in ("VisibilityTimeout", "ReceiveMessageWaitTimeSeconds")],
    }


def test_objects_come_back_as_they_were(second_life: Life) -> None:
    assert second_life.objects.keys() == {*KEYS, "copied", "kept", "form.txt", "big"}
    assert contents(second_life.store.s3()) == second_life.objects


def test_a_multipart_upload_comes_back_with_its_etag(second_life: Life) -> None:
    digest = md5(b"".join(md5(part, usedforsecurity=False).digest() for part in PARTS), usedforsecurity=False)
    s3 = second_life.store.s3()
    answer = s3.get_object(Bucket="photos", Key="big")
    assert answer["Body"].read() == b"".join(PARTS)
    assert (answer["ETag"], answer["ContentType"]) == (f'"{digest.hexdigest()}-2"', "x/y")
    with pytest.raises(ClientError, match="NoSuchUpload"):
        s3.abort_multipart_upload(Bucket="photos", Key="other", UploadId=second_life.abandoned_upload)


def test_the_configuration_of_buckets_and_queues_comes_back(second_life: Life) -> None:
    assert [name for name, _ in second_life.configuration["buckets"]] == ["photos", "elsewhere"]
    assert second_life.configuration["queue"] == ["77", "3"]
    assert configuration(second_life.store) == second_life.configuration
    with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
        second_life.store.s3().get_bucket_policy(Bucket="elsewhere")


def test_a_second_store_on_the_same_folder_is_refused(second_life: Life, tmp_path: Path) -> None:
    with running("whimbrel.local.store", "--folder", str(second_life.folder), log=tmp_path / "log") as second:
        assert second.process.wait(60) == 2
        assert "stop the other store" in second.output()


def test_the_replay_announces_nothing_and_new_objects_are_announced(embedded: Store) -> None:
    queue = embedded.sqs().create_queue(QueueName="photos")["QueueUrl"]
    embedded.s3().put_bucket_notification_configuration(
        Bucket="photos",
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": QUEUE_ARN, "Events": ["s3:ObjectCreated:*"]}]},
    )
    embedded.s3().put_object(Bucket="photos", Key="old", Body=b"")
    kill_and_restart(embedded)
    sqs = embedded.sqs()
    assert "Messages" not in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
    embedded.s3().put_object(Bucket="photos", Key="new", Body=b"")
    (message,) = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    (event,) = parse_notification(message["Body"])
    assert (event.object.key, event.creates) == ("new", True)
    assert embedded.process.stop() == 0


def test_conditional_puts_have_one_winner_before_and_after_a_kill(embedded: Store) -> None:
    s3 = impatient_s3(embedded)

    def put_once(number: int) -> bool:
        try:
            s3.put_object(Bucket="photos", Key="once", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            assert error_code(error) == "PreconditionFailed"
            return False
        return True

    with ThreadPoolExecutor(8) as putters:
        winners = [number for number, won in enumerate(putters.map(put_once, range(24))) if won]
    assert len(winners) == 1
    kill_and_restart(embedded)
    assert not put_once(99)
    answer = s3.get_object(Bucket="photos", Key="once")
    assert answer["Body"].read() == str(winners[0]).encode()
    s3.put_object(Bucket="photos", Key="once", Body=b"next", IfMatch=answer["ETag"])
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket="photos", Key="once", Body=b"late", IfMatch=answer["ETag"])


def test_what_was_answered_before_kill_9_is_there_after_it(embedded: Store) -> None:
    """Eight putters, each over keys of its own and one that all share, while the store is killed."""
    answered: dict[str, int] = {}
    shared: list[int] = []
    enough = threading.Event()
    s3 = impatient_s3(embedded)

    def put_until_killed(putter: int) -> int:
        for number in range(10_000):
            key = f"{putter}/{number % 7}"
            try:
                s3.put_object(Bucket="photos", Key=key, Body=b"%d" % number)
                answered[key] = number
                s3.put_object(Bucket="photos", Key="shared", Body=b"%d" % (putter * 100_000 + number))
                shared.append(putter * 100_000 + number)
            except (BotoCoreError, ClientError):
                return number
            if len(shared) > 60:
                enough.set()
        raise AssertionError("the store was never killed")

    with ThreadPoolExecutor(8) as putters:
        ends = [putters.submit(put_until_killed, putter) for putter in range(8)]
        assert enough.wait(60)
        embedded.process.process.kill()
        stopped_at = [end.result(60) for end in ends]
    kill_and_restart(embedded)
    stored = {key: int(body) for key, (body, *_) in contents(embedded.s3()).items()}
    # Answered puts are there; of each putter's last one the answer may have been lost.
    for key, number in answered.items():
        last = stopped_at[int(key.split("/")[0])]
        assert stored[key] == number or (stored[key] == last and key.endswith(f"/{last % 7}"))
    unanswered = {putter * 100_000 + last for putter, last in enumerate(stopped_at)}
    assert stored["shared"] in {*shared[-8:], *unanswered}


def test_a_put_that_cannot_be_journaled_is_undone(tmp_path: Path) -> None:
    with embedded_store(tmp_path / "store", max_store_bytes=str(MIB)) as small:
        s3 = impatient_s3(small)
        s3.create_bucket(Bucket="photos")
        s3.put_object(Bucket="photos", Key="kept", Body=b"first", Metadata={"a": "b"})
        for key in ("kept", "new"):
            with pytest.raises(ClientError, match="journal could not be written"):
                s3.put_object(Bucket="photos", Key=key, Body=b"x" * 2 * MIB)
        before = contents(s3)
        assert before.keys() == {"kept"}
        assert before["kept"][0] == b"first"
        s3.put_object(Bucket="photos", Key="small", Body=b"still works")
        kill_and_restart(small)
        assert contents(s3).keys() == {"kept", "small"}
        assert contents(s3)["kept"] == before["kept"]


def test_what_is_not_kept_is_refused(tmp_path: Path) -> None:
    with embedded_store(tmp_path / "store", max_object_bytes="4096") as small:
        s3 = impatient_s3(small)
        s3.create_bucket(Bucket="photos")
        with pytest.raises(ClientError, match="versioning is not kept by this store"):
            s3.put_bucket_versioning(Bucket="photos", VersioningConfiguration={"Status": "Enabled"})
        with pytest.raises(ClientError, match="object lock is not kept by this store"):
            s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        with pytest.raises(ClientError, match="EntityTooLarge"):
            s3.put_object(Bucket="photos", Key="big", Body=b"x" * 5000)
        target = {"x-amz-target": "DynamoDB_20120810.ListTables", "authorization": _signed_for("dynamodb")}
        assert httpx.post(small.endpoint, headers=target).status_code == 501
        assert contents(s3) == {}


def test_a_web_page_can_neither_put_nor_read(embedded: Store) -> None:
    """A form needs no preflight, and a page's own name may lead to this machine meanwhile."""
    embedded.s3().put_object(Bucket="photos", Key="a.jpg", Body=b"mine")
    form, files = {"key": "a.jpg"}, {"file": ("a.jpg", b"theirs", "text/plain")}
    port = httpx.URL(embedded.endpoint).port

    origin = {"origin": "http://page.example"}
    written = httpx.post(f"{embedded.endpoint}/photos", data=form, files=files, headers=origin)
    read = httpx.get(f"{embedded.endpoint}/photos/a.jpg", headers={"host": f"page.example:{port}"})

    assert (written.status_code, read.status_code) == (403, 403)
    assert "expected no Origin header" in written.text
    assert "expected a loopback name as Host" in read.text
    assert embedded.s3().get_object(Bucket="photos", Key="a.jpg")["Body"].read() == b"mine"
    assert httpx.get(f"{embedded.endpoint}{HEALTH_PATH}", headers={"host": f"localhost:{port}"}).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--http-host", "0.0.0.0"], "the store has no authentication"),  # noqa: S104
        (["--folder", "/dev/null/x"], "expected a folder of this store's own"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    command = ["--folder", str(tmp_path / "store"), *arguments]
    with running("whimbrel.local.store", *command, log=tmp_path / "log") as refused:
        assert refused.process.wait(60) == 2
        assert message in refused.output()
        assert refused.output().count("\n") == 1


def _signed_for(service: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/{service}/aws4_request, Signature=0"
