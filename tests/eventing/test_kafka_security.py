"""The Kafka source before brokers that ask who one is: TLS, certificates of clients, and SASL in each mechanism."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.certificates import certificate_for_loopback
from testbed.kafka import Kafka, kafka_cluster
from testbed.kafka_secured import User, secured
from testbed.processes import running
from testbed.sinks import scripted_sink

from .conftest import notification, record

GROUP = "secured"


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with kafka_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate_for_loopback(tmp_path_factory.mktemp("certificate"))


def arguments(kafka: Kafka, topic: str, *given: str) -> list[str]:
    return [
        *("source", "kafka", f"--kafka-topics={topic}", f"--kafka-group={topic}", f"--kafka-brokers={kafka.brokers}"),
        *("--http-port=0", "--kafka-session-seconds=6", *given),
    ]


def all_arrives(kafka: Kafka, front: Kafka, topic: str, log: Path, *given: str, **environment: str) -> None:
    kafka.produce(topic, [(f"k{n}", notification(record(f"k{n}"))) for n in range(20)])
    with (
        scripted_sink() as sink,
        running(
            "whimbrel.eventing", *arguments(front, topic, *given), log=log, K_SINK=sink.url, **environment
        ) as process,
    ):
        process.wait_until(lambda: kafka.committed(topic) == 20, "everything committed", 60)
        assert process.stop() == 0
    assert sorted(sink.accepted_keys()) == sorted(f"k{n}" for n in range(20))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_it_proves_its_password_over_tls(
    kafka: Kafka, certificate: tuple[Path, Path], mechanism: str, tmp_path: Path
) -> None:
    with secured(kafka, certificate, User("reader", "pass,word=", mechanism)) as front:
        given = (
            f"--kafka-sasl-mechanism={mechanism}",
            "--kafka-security=sasl_ssl",
            f"--kafka-ca-bundle={certificate[0]}",
        )
        log = tmp_path / "source.log"
        secret = {"WHIMBREL_KAFKA_USERNAME": "reader", "WHIMBREL_KAFKA_PASSWORD": "pass,word="}
        all_arrives(kafka, front, f"sasl-{mechanism}", log, *given, **secret)
    assert "pass,word=" not in log.read_text()


def test_it_shows_its_certificate(kafka: Kafka, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    mine = certificate_for_loopback(tmp_path)
    with secured(kafka, certificate, client_ca=mine[0]) as front:
        given = (f"--kafka-certificate={mine[0]}", f"--kafka-key={mine[1]}")
        trusted = ("--kafka-security=ssl", f"--kafka-ca-bundle={certificate[0]}")
        all_arrives(kafka, front, "client-certificate", tmp_path / "source.log", *trusted, *given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ("--kafka-security=sasl_ssl", "--kafka-password=secret-guess", "--kafka-ca-bundle={ca}"),
            "wrong user or password",
        ),
        (("--kafka-security=sasl_ssl", "--kafka-password=secret-guess"), "certificate"),
    ],
)
def test_who_does_not_get_in_is_told_why_and_ends(
    kafka: Kafka, certificate: tuple[Path, Path], given: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    kafka.produce("closed", [("k", notification(record("k")))])
    filled = [each.format(ca=certificate[0]) for each in given]
    more = ("--kafka-username=reader", "--startup-wait-seconds=0.5")
    with secured(kafka, certificate, User("reader", "right", "SCRAM-SHA-512")) as front:
        source = arguments(front, "closed", *filled, *more)
        with running("whimbrel.eventing", *source, log=tmp_path / "log", K_SINK="http://127.0.0.1:1/") as process:
            assert process.process.wait(60) == 1
            last = process.output().splitlines()[-1]
    assert told in last
    assert "secret-guess" not in process.output()
