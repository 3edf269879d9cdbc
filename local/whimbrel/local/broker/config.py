"""The brokers and triggers of one machine, read from a JSON file that the engine writes.

    {"generation"?: N,
     "brokers":  [{"namespace", "name", "delivery"?}],
     "triggers": [{"namespace", "name", "broker", "filter"?: {"attributes": {}}, "filters"?: [],
                   "subscriber": {"uri"}, "delivery"?}]}

`delivery` is that of the custom resources: {"retry", "backoffPolicy", "backoffDelay", "timeout", "retryAfterMax",
"deadLetterSink": {"uri"}}, durations in ISO-8601; every reference is resolved to a uri already. A field that is not
known here is refused by its path. As in Knative a trigger's delivery, where it has one, takes the place of its
broker's as a whole; only the dead-letter sink is then still the broker's where the trigger names none. Where both
have none, the defaults are those that Knative installs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import HttpUrl
from whimbrel.local.broker.durations import parse_duration
from whimbrel.local.broker.filters import EVERYTHING, Filter, attributes_filter, parse_dialects

LONGEST_TIMEOUT_SECONDS = 600.0  # Knative Serving's own longest; also what holds where no timeout is set

BackoffPolicy = Literal["exponential", "linear"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one trigger's events are delivered. `retry` further attempts follow the first."""

    retry: int = 0
    backoff_policy: BackoffPolicy = "exponential"
    backoff_delay_seconds: float = 0.0
    timeout_seconds: float = LONGEST_TIMEOUT_SECONDS
    retry_after_max_seconds: float | None = None
    dead_letter_sink: str | None = None


KNATIVE_DEFAULT = Delivery(retry=10, backoff_policy="exponential", backoff_delay_seconds=0.2)


@dataclass(frozen=True, slots=True)
class Trigger:
    namespace: str
    name: str
    filter: Filter
    subscriber: str
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Broker:
    namespace: str
    name: str
    triggers: tuple[Trigger, ...]


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Every broker by (namespace, name); `generation` is what `/healthz` says of the configuration that holds."""

    brokers: Mapping[tuple[str, str], Broker]
    generation: int = 0


def load_config(path: Path) -> BrokerConfig:
    """Raises SettingsError, one line that names each wrong field by its path."""
    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(f"expected the broker's configuration in {path}: {error.strerror}") from None
    return parse_config(text, origin=str(path))


def parse_config(text: str | bytes, *, origin: str) -> BrokerConfig:
    try:
        document = _Document.model_validate_json(text)
        return _resolve(document)
    except ValidationError as error:
        faults = "; ".join(f"{_path(fault['loc'])}: {_message(fault['msg'])}" for fault in error.errors())
        raise SettingsError(f"{origin}: {faults}") from None
    except ValueError as error:
        raise SettingsError(f"{origin}: {error}") from None


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _timeout(text: str) -> str:
    if not 0 < parse_duration(text) <= LONGEST_TIMEOUT_SECONDS:
        raise ValueError(f"expected more than 0 and at most {LONGEST_TIMEOUT_SECONDS:g} s, seen {text!r}")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Destination(_Strict):
    uri: HttpUrl


class _Delivery(_Strict):
    retry: Annotated[int, Field(ge=0, le=100)] = 0
    backoffPolicy: BackoffPolicy | None = None
    backoffDelay: Annotated[str, AfterValidator(_duration)] | None = None
    timeout: Annotated[str, AfterValidator(_timeout)] | None = None
    retryAfterMax: Annotated[str, AfterValidator(_duration)] | None = None
    deadLetterSink: _Destination | None = None


class _Broker(_Strict):
    namespace: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    delivery: _Delivery | None = None


class _AttributesFilter(_Strict):
    attributes: dict[str, str] = {}


class _Trigger(_Strict):
    namespace: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    broker: Annotated[str, Field(min_length=1)]
    filter: _AttributesFilter | None = None
    filters: list[dict[str, Any]] = []
    subscriber: _Destination
    delivery: _Delivery | None = None


class _Document(_Strict):
    generation: int = 0
    brokers: list[_Broker]
    triggers: list[_Trigger]


def _resolve(document: _Document) -> BrokerConfig:
    specified = {(broker.namespace, broker.name): broker for broker in document.brokers}
    triggers: dict[tuple[str, str], list[Trigger]] = {name: [] for name in specified}
    for index, trigger in enumerate(document.triggers):
        broker = specified.get((trigger.namespace, trigger.broker))
        if broker is None:
            raise ValueError(
                f"triggers[{index}].broker: namespace {trigger.namespace!r} has no broker {trigger.broker!r}"
            )
        triggers[broker.namespace, broker.name].append(_trigger(trigger, broker, f"triggers[{index}].filters"))
    brokers = {key: Broker(*key, tuple(found)) for key, found in triggers.items()}
    return BrokerConfig(brokers, document.generation)


def _trigger(trigger: _Trigger, broker: _Broker, path: str) -> Trigger:
    wanted: Filter = EVERYTHING
    if trigger.filters:  # as in Knative, `filters` then is all that counts
        wanted = parse_dialects(trigger.filters, path)
    elif trigger.filter is not None:
        wanted = attributes_filter(trigger.filter.attributes)
    return Trigger(
        trigger.namespace, trigger.name, wanted, trigger.subscriber.uri, _delivery(trigger.delivery, broker.delivery)
    )


def _delivery(own: _Delivery | None, brokers: _Delivery | None) -> Delivery:
    specified = own or brokers
    if specified is None:
        return KNATIVE_DEFAULT
    sink = specified.deadLetterSink or (brokers.deadLetterSink if brokers else None)
    delivery = Delivery(
        retry=specified.retry,
        timeout_seconds=parse_duration(specified.timeout) if specified.timeout else LONGEST_TIMEOUT_SECONDS,
        retry_after_max_seconds=parse_duration(specified.retryAfterMax) if specified.retryAfterMax else None,
        dead_letter_sink=sink.uri if sink else None,
    )
    if specified.backoffPolicy is None or specified.backoffDelay is None:
        return delivery  # Knative waits only where both are set
    return replace(
        delivery,
        backoff_policy=specified.backoffPolicy,
        backoff_delay_seconds=parse_duration(specified.backoffDelay),
    )


def _path(location: tuple[int | str, ...]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return path.removeprefix(".") or "document"


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")
