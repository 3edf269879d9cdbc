"""The registry's webhooks: one that announces moved aliases is made, listed, tried and deleted; over REST.

MLflow delivers a webhook from its server once an alias was moved. It refuses addresses that are not https and not
public unless its own settings allow them, keeps its list of webhooks for a minute, and forgets a delivery that fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from whimbrel.core import registry
from whimbrel.core.errors import InputRefused, NotFound
from whimbrel.mlflow.rollout.webhook import ALIAS_MOVED

MAX_PAGES: Final = 20
PAGE: Final = 100
ALLOWED_BY: Final = (
    "an MLflow server takes an address that is not https only with MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https in its "
    "environment, and one that is not public only with MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true"
)
_EVENT: Final = {"entity": ALIAS_MOVED[0].upper(), "action": ALIAS_MOVED[1].upper()}


@dataclass(frozen=True, slots=True)
class Webhook:
    """`events`: `model_version_alias.created` and so on."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    status: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of one that was sent to try. `reason` says why there is no `status`, or what it came with."""

    status: int | None
    reason: str


def list_webhooks(tracking_uri: str) -> list[Webhook]:
    """By name. Raises NotFound, InputRefused and Unavailable, as all of this module do."""
    return sorted(map(_webhook, _pages(tracking_uri)), key=lambda webhook: (webhook.name, webhook.id))


def create_webhook(tracking_uri: str, name: str, url: str, secret: str) -> Webhook:
    """The webhook of that name announces moved aliases to `url`, signed by `secret`; made when there is none."""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise InputRefused(f"expected https://HOST/PATH, where the receiver is reached, seen {url!r}")
    existing = next((each for each in list_webhooks(tracking_uri) if each.name == name), None)
    document = {"name": name, "url": url, "events": [_EVENT], "secret": secret, "status": "ACTIVE"}
    try:
        if existing is None:
            answer = registry.post(tracking_uri, "webhooks", document)
        else:
            answer = registry.patch(tracking_uri, f"webhooks/{existing.id}", document)
    except InputRefused as error:
        raise InputRefused(f"{error}; {ALLOWED_BY}") from None
    return _webhook(answer["webhook"])


def try_webhook(tracking_uri: str, name: str) -> Delivery:
    """Has the registry deliver an example to the webhook of that name."""
    found = _named(tracking_uri, name)[0]
    result = registry.post(tracking_uri, f"webhooks/{found.id}/test", {"event": _EVENT}).get("result", {})
    reason = str(result.get("error_message") or result.get("response_body") or "")
    return Delivery(result.get("response_status"), reason[:500])


def delete_webhook(tracking_uri: str, name: str) -> int:
    """How many there were."""
    found = _named(tracking_uri, name)
    for each in found:
        registry.delete(tracking_uri, f"webhooks/{each.id}")
    return len(found)


def _named(tracking_uri: str, name: str) -> list[Webhook]:
    found = [each for each in list_webhooks(tracking_uri) if each.name == name]
    if not found:
        raise NotFound(f"expected a webhook {name!r} at {tracking_uri}, seen none; see 'whimbrel model webhook ls'")
    return found


def _pages(tracking_uri: str) -> Iterator[dict[str, Any]]:
    token = ""
    for _ in range(MAX_PAGES):
        query = {"max_results": str(PAGE)} | ({"page_token": token} if token else {})
        answer = registry.get(tracking_uri, "webhooks", query)
        yield from answer.get("webhooks", ())
        token = str(answer.get("next_page_token", ""))
        if not token:
            return


def _webhook(document: dict[str, Any]) -> Webhook:
    events = (f"{each['entity']}.{each['action']}".lower() for each in document.get("events", ()))
    return Webhook(
        id=str(document["webhook_id"]),
        name=str(document["name"]),
        url=str(document["url"]),
        events=tuple(events),
        status=str(document.get("status", "")),
    )
