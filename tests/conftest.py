"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from testbed.ceph import ABSENT, INSTALLED, Ceph, ceph_cluster
from testbed.engine import OneMachine, one_machine
from testbed.rabbitmq import RabbitMq, rabbitmq_node
from testbed.stores import CREDENTIALS, Store, moto_store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


# A slow machine is no fault of what is tested. CI tries the same examples each time: it tells what a change broke, and
# every run elsewhere looks for new ones.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One S3 and SQS server for the whole run; a test uses buckets and queues of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with moto_store(tmp_path_factory.mktemp("store")) as running_store:
            yield running_store


@pytest.fixture
def s3(store: Store) -> S3Client:
    return store.s3()


@pytest.fixture
def bucket(s3: S3Client) -> str:
    """A new, empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneMachine]:
    """One engine with the null model for every test that needs a whole machine; each uses keys of its own."""
    with one_machine(tmp_path_factory.mktemp("machine") / "state") as started:
        yield started


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real Ceph with its gateway; what a test breaks of it, that test mends."""
    if not INSTALLED:
        pytest.skip(ABSENT)
    with ceph_cluster(tmp_path_factory.mktemp("ceph")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """One RabbitMQ node for the whole run; a test uses queues of its own, and starts again what it kills."""
    with rabbitmq_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """`@pytest.mark.anyio` tests run on asyncio alone."""
    return "asyncio"
