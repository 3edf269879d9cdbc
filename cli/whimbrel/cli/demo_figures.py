"""What the demo saw: its tables, and whether it went as it should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from whimbrel.cli.accounting import Account, Tally
from whimbrel.cli.console import add_rows, out, table
from whimbrel.cli.demo_story import NETWORKS, End
from whimbrel.core.errors import is_retried

ACCURACY_WANTED = 0.98
_BETTER = "2"
_TRIGGER = "objects"  # the one that brings objects to the transformer
_ATTEMPTS = "whimbrel_broker_attempts_total"


@dataclass(frozen=True, slots=True)
class Requests:
    """What the broker sent to the transformer, and how much of it found no answer and was sent again."""

    sent: int
    failed: int


@dataclass(frozen=True, slots=True)
class Figures:
    account: Account
    rollouts: tuple[End, ...]
    requests: Requests

    def tally(self, version: str) -> Tally:
        return self.account.versions.get(version, Tally())


async def requests(broker: str) -> Requests:
    """As the broker at this address counted them. What was refused was answered."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{broker.rsplit('/', 2)[0]}/metrics")
        answer.raise_for_status()
    sent = failed = 0
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name == _ATTEMPTS and sample.labels["trigger"] == _TRIGGER:
                sent += int(sample.value)
                failed += int(sample.value) * _is_failure(sample.labels["outcome"])
    return Requests(sent, failed)


def _is_failure(outcome: str) -> bool:
    return outcome != "accepted" and (outcome == "0" or is_retried(int(outcome)))


def faults(figures: Figures) -> list[str]:
    """What did not go as it should, one line each."""
    return [*_faults(figures)]


def _faults(figures: Figures) -> Iterator[str]:
    account, better = figures.account, figures.tally(_BETTER)
    for what, keys in (("missing", account.missing), ("twice", account.twice), ("unexpected", account.unexpected)):
        yield from (f"{what}: {key}" for key in keys)
    if figures.requests.failed:
        yield f"expected no request to fail, seen {figures.requests.failed}; see the log of the broker"
    for end in figures.rollouts:
        if not end.as_told:
            wanted = f"{end.rollout.phase} {end.rollout.why}".strip()
            yield f"expected {end.rollout.name} to be {wanted!r}, seen {f'{end.phase} {end.message}'.strip()!r}"
    if better.accuracy < ACCURACY_WANTED:
        yield f"expected version {_BETTER} to be right on {ACCURACY_WANTED:.0%}, seen {better.accuracy:.1%}"


def show(figures: Figures, seconds: float) -> None:
    account = figures.account
    versions = ((version, network, figures.tally(version)) for version, network in NETWORKS.items())
    out.print()
    out.print(
        add_rows(
            table("VERSION", "NETWORK", "RESULTS", "RIGHT", "ACCURACY"),
            ((version, network, each.results, each.right, _accuracy(each)) for version, network, each in versions),
        )
    )
    out.print()
    rollouts = (
        (end.rollout.name, end.rollout.version, end.phase, f"{end.seconds:.0f} s", end.message)
        for end in figures.rollouts
    )
    out.print(add_rows(table("ROLLOUT", "OF VERSION", "END", "TOOK", "WHY"), rollouts))
    rows = [
        ("objects put", account.objects),
        ("results", account.results),
        ("dead letters", len(account.refused)),
        ("missing", len(account.missing)),
        ("more than one outcome", len(account.twice)),
        ("requests that failed", f"{figures.requests.failed} of {figures.requests.sent}"),
        ("upload to result, p50", f"{account.percentile_ms(50):.0f} ms"),
        ("upload to result, p95", f"{account.percentile_ms(95):.0f} ms"),
        ("from start to table", f"{seconds:.0f} s"),
    ]
    out.print()
    out.print(add_rows(table("DEMO", ""), rows))
    out.print()
    out.print(add_rows(table("REFUSED", "WHY"), ((each.key, each.reason) for each in account.refused)))


def _accuracy(tally: Tally) -> str:
    return f"{tally.accuracy:.4f}" if tally.judged else ""
