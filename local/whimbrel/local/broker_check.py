"""Refuses, by its path in the manifests, what the broker would not take of its configuration: it would only log it."""

from __future__ import annotations

import json
from typing import Any

from whimbrel.core.errors import InputRefused, SettingsError
from whimbrel.local.broker.config import parse_config


def refuse_wrong(planned: dict[str, Any]) -> None:
    """Each object alone, so that the error has its name. Raises InputRefused, one line."""
    for broker in planned["brokers"]:
        _check(f"Broker {broker['name']!r}", {"brokers": [broker], "triggers": []}, "brokers[0].")
    names = [{"namespace": broker["namespace"], "name": broker["name"]} for broker in planned["brokers"]]
    for trigger in planned["triggers"]:
        _check(f"Trigger {trigger['name']!r}", {"brokers": names, "triggers": [trigger]}, "triggers[0].")


def _check(named: str, document: dict[str, Any], place: str) -> None:
    try:
        parse_config(json.dumps(document), origin=named)
    except SettingsError as error:
        raise InputRefused(str(error).replace(place, "spec.")) from None
