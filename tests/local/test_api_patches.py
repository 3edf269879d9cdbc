"""Patches, ownership of fields, columns and paths of the API, without a server."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from whimbrel.local import fields
from whimbrel.local.api import columns, faults, kinds, ownership, patches, protobuf, strategic
from whimbrel.local.api.kinds import Column
from whimbrel.local.api.paths import Target, parse

UNHURRIED = settings(deadline=None, max_examples=60)
NAMES = st.sampled_from("abcd")
MAPS = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2) | st.none(),
    lambda below: st.dictionaries(NAMES, below, max_size=3),
    max_leaves=8,
)
SPECS = st.dictionaries(NAMES, MAPS, max_size=3)


def an(spec: Any, **metadata: Any) -> dict[str, Any]:
    metadata = {"name": "x", "uid": "1", "resourceVersion": "1", **metadata}
    return {"apiVersion": "v1", "kind": "Test", "metadata": metadata, "spec": spec}


def applied(stored: dict[str, Any] | None, spec: Any, manager: str, *, force: bool = False) -> dict[str, Any]:
    config = {"apiVersion": "v1", "kind": "Test", "metadata": {"name": "x"}, "spec": spec}
    return ownership.applied(stored, config, manager, force=force)


@UNHURRIED
@given(SPECS)
def test_an_apply_again_changes_nothing(spec: dict[str, Any]) -> None:
    first = applied(an({}), spec, "one")
    assert applied(first, spec, "one") == first


@UNHURRIED
@given(SPECS, SPECS)
def test_what_is_applied_is_there(before: dict[str, Any], spec: dict[str, Any]) -> None:
    found = applied(applied(an({}), before, "one"), spec, "one")["spec"]
    assert patches.merged({}, _present(spec)) == patches.merged({}, _present(found))


@UNHURRIED
@given(SPECS, SPECS)
def test_a_forced_apply_is_there_whoever_owned_it(other: dict[str, Any], spec: dict[str, Any]) -> None:
    found = applied(applied(an({}), other, "other"), spec, "one", force=True)
    assert applied(found, spec, "one") == found


@UNHURRIED
@given(SPECS, SPECS, SPECS)
def test_what_another_one_applied_is_never_removed(
    other: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    stored = applied(applied(an({}), first, "one"), other, "other", force=True)
    try:
        found = applied(stored, second, "one")
    except faults.Conflict:
        return
    assert _flat(other).items() <= _flat(found["spec"]).items()


def _flat(spec: Any, path: str = "") -> dict[str, str]:
    if isinstance(spec, dict):
        return {name: value for key, each in spec.items() for name, value in _flat(each, f"{path}.{key}").items()}
    return {path: repr(spec)}


@UNHURRIED
@given(SPECS, SPECS)
def test_a_conflict_changes_nothing(other: dict[str, Any], spec: dict[str, Any]) -> None:
    stored = applied(an({}), other, "other")
    before = copy.deepcopy(stored)
    try:
        applied(stored, spec, "one")
    except faults.Conflict as conflict:
        assert conflict.causes and all("conflict with" in cause.message for cause in conflict.causes)
    assert stored == before


def _present(spec: Any) -> Any:
    """Without empty maps and nulls, which own themselves alone."""
    if isinstance(spec, dict):
        return {name: value for name, each in spec.items() if (value := _present(each)) not in ({}, None)}
    return spec


def test_an_apply_owns_its_fields_and_gives_them_up() -> None:
    found = applied(applied(an({}), {"a": 1, "b": {"c": 2}}, "one"), {"a": 1, "d": [1]}, "two")
    assert found["spec"] == {"a": 1, "b": {"c": 2}, "d": [1]}
    found = applied(found, {}, "one")
    assert found["spec"] == {"a": 1, "d": [1]}  # two still wants a
    with pytest.raises(faults.Conflict, match=r'conflict with "two" using v1: \.spec\.a'):
        applied(found, {"a": 3}, "one")
    forced = applied(found, {"a": 3}, "one", force=True)
    assert forced["spec"] == {"a": 3, "d": [1]}
    owners = {each["manager"]: each["fieldsV1"] for each in forced["metadata"]["managedFields"]}
    assert owners == {"one": {"f:spec": {"f:a": {}}}, "two": {"f:spec": {"f:d": {}}}}


def test_empty_maps_conflict_with_nothing() -> None:
    found = applied(applied(an({}), {"a": {}}, "one"), {"a": {"b": 1}}, "two")
    assert applied(found, {"a": {}}, "one")["spec"] == {"a": {"b": 1}}


def test_an_update_takes_what_it_changes() -> None:
    stored = applied(an({}), {"a": 1, "b": 2}, "one")
    changed = ownership.tracked(stored, {**stored, "spec": {"a": 5, "b": 2}}, "editor")
    entries = changed["metadata"]["managedFields"]
    assert [(each["manager"], each["operation"], each["fieldsV1"]) for each in entries] == [
        ("one", "Apply", {"f:spec": {"f:b": {}}}),
        ("editor", "Update", {"f:spec": {"f:a": {}}}),
    ]
    assert ownership.tracked(changed, changed, "nobody") == changed


def test_managed_fields_can_be_written_by_hand() -> None:
    stored = applied(an({}), {"a": 1}, "one")
    handed = copy.deepcopy(stored)
    handed["metadata"]["managedFields"][0]["manager"] = "two"
    found = ownership.tracked(stored, handed, "editor")
    assert [each["manager"] for each in found["metadata"]["managedFields"]] == ["two"]


CONTAINERS = {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({"containers": [{"name": "b", "image": "2"}]}, [CONTAINERS["containers"][0], {"name": "b", "image": "2"}]),
        ({"containers": [{"$patch": "delete", "name": "a"}]}, [{"name": "b"}]),
        ({"containers": [{"$patch": "replace"}, {"name": "c"}]}, [{"name": "c"}]),
        (
            {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": []},
            [{"name": "b"}, CONTAINERS["containers"][0]],
        ),
        (
            {"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Y", "value": "2"}]}]},
            [{"name": "a", "image": "1", "env": [{"name": "Y", "value": "2"}]}, {"name": "b"}],
        ),
        ({"$patch": "replace", "containers": [{"name": "z"}]}, [{"name": "z"}]),
    ],
)
def test_strategic_merge(patch: dict[str, Any], expected: list[Any]) -> None:
    assert strategic.merged(CONTAINERS, patch) == {"containers": expected}


def test_strategic_merge_of_sets_maps_and_ports() -> None:
    found = {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}, "ports": [{"port": 80, "name": "http"}]}
    patch = {
        "$deleteFromPrimitiveList/finalizers": ["a"],
        "finalizers": ["c"],
        "labels": {"x": None, "z": "3"},
        "ports": [{"port": 443}],
    }
    assert strategic.merged(found, patch) == {
        "finalizers": ["b", "c"],
        "labels": {"y": "2", "z": "3"},
        "ports": [{"port": 80, "name": "http"}, {"port": 443}],
    }
    assert strategic.merged({"a": 1, "b": 2}, {"$retainKeys": ["b"], "b": 3}) == {"b": 3}
    with pytest.raises(faults.BadRequest, match="expected replace, delete or merge"):
        strategic.merged({}, {"a": {"$patch": "destroy"}})


@pytest.mark.parametrize(
    ("form", "patch", "fault"),
    [
        (patches.STRATEGIC, {}, faults.UnsupportedMediaType),
        ("text/plain", {}, faults.UnsupportedMediaType),
        (patches.MERGE, [], faults.BadRequest),
        (patches.MERGE, {"metadata": None}, faults.BadRequest),
        (patches.JSON, {}, faults.BadRequest),
        (patches.JSON, ["x"], faults.BadRequest),
        (patches.JSON, [{"op": "fly"}], faults.BadRequest),
        (patches.JSON, [{"op": "remove", "path": "/spec/none"}], faults.Invalid),
        (patches.JSON, [{"op": "replace", "path": "", "value": 1}], faults.BadRequest),
    ],
)
def test_patches_that_cannot_be(form: str, patch: Any, fault: type[faults.ApiFault]) -> None:
    with pytest.raises(fault):
        patches.applied(kinds.INFERENCE_SERVICE, form, an({}), patch)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        *((-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (599, "9m59s"), (3000, "50m")),
        *((3 * 3600, "3h"), (3 * 3600 + 60, "3h1m"), (9 * 3600, "9h"), (3 * 86400 + 3600, "3d1h"), (30 * 86400, "30d")),
        *((800 * 86400, "2y70d"), (9 * 365 * 86400, "9y")),
    ],
)
def test_ages(seconds: int, expected: str) -> None:
    assert columns.duration(seconds) == expected
    created = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert columns.cell(kinds.AGE, {"metadata": {"creationTimestamp": created}}, NOW) == expected


@pytest.mark.parametrize("created", [None, "yesterday", "2026-01-01T00:00:00"])
def test_an_age_that_cannot_be_told(created: str | None) -> None:
    assert columns.cell(kinds.AGE, {"metadata": {"creationTimestamp": created}}, NOW) == "<unknown>"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".spec.a", "1"),
        (".spec.list[*].name", "x,y"),
        ('.spec.list[?(@.name=="y")].on', "false"),
        (".spec.list[?(@.on==true)].name", "x"),
        (".metadata.labels['a\\.b/c']", "d"),
        (".spec.missing.deeper", None),
        (".spec.a.deeper", None),
    ],
)
def test_columns_by_path(path: str, expected: str | None) -> None:
    listed = [{"name": "x", "on": True}, {"name": "y", "on": False}]
    found = {"metadata": {"labels": {"a.b/c": "d"}}, "spec": {"a": 1, "list": listed}}
    assert columns.cell(Column("Test", path), found, NOW) == expected


def test_every_column_of_every_kind_can_be_read() -> None:
    empty = {"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}}
    for kind in kinds.KINDS:
        cells = {column.name: columns.cell(column, empty, NOW) for column in kind.columns}
        assert cells.get("Age", "0s") == "0s"


def test_the_model_rollout_is_as_its_definition_says() -> None:
    file = Path(__file__).parents[2] / "manifests" / "components" / "rollout-controller" / "modelrollout.yaml"
    spec = yaml.safe_load(file.read_text())["spec"]
    (version,) = spec["versions"]
    kind = kinds.MODEL_ROLLOUT
    assert (kind.group, kind.plural, list(kind.short_names)) == (
        *(spec["group"], spec["names"]["plural"]),
        spec["names"]["shortNames"],
    )
    assert [(each.name, each.path, each.type, each.priority) for each in kind.columns] == [
        (each["name"], each["jsonPath"], each["type"], each.get("priority", 0))
        for each in version["additionalPrinterColumns"]
    ]
    known = {path.split(".")[1] for path in fields.HONOURED["ModelRollout"]}
    assert known == version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].keys()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Running"}, ("1/2", "Running", "3")),
        ({"phase": "Pending", "waiting": {"reason": "CrashLoopBackOff"}}, ("1/2", "CrashLoopBackOff", "3")),
    ],
)
def test_the_columns_of_pods(status: dict[str, Any], expected: tuple[str, str, str]) -> None:
    state = {"waiting": status.pop("waiting")} if "waiting" in status else {"running": {}}
    statuses = [{"ready": True, "restartCount": 1, "state": {"running": {}}}, {"restartCount": 2, "state": state}]
    found = {
        "metadata": {"name": "x"},
        "spec": {"containers": [{}, {}]},
        "status": {**status, "containerStatuses": statuses},
    }
    assert tuple(columns.cell(column, found, NOW) for column in kinds.POD.columns[:3]) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/namespaces", Target(kinds.NAMESPACE)),
        ("/api/v1/namespaces/default", Target(kinds.NAMESPACE, None, "default")),
        ("/api/v1/namespaces/default/status", Target(kinds.NAMESPACE, None, "default", "status")),
        ("/api/v1/namespaces/default/pods", Target(kinds.POD, "default")),
        ("/api/v1/pods", Target(kinds.POD)),
        ("/api/v1/namespaces/default/pods/x/log", Target(kinds.POD, "default", "x", "log")),
        ("/apis/serving.knative.dev/v1/services", Target(kinds.KNATIVE_SERVICE)),
        ("/api/v1/pods/x", None),
        ("/api/v1/namespaces/default/namespaces/x", None),
        ("/api/v1/namespaces/default/pods//log", None),
        ("/api/v1/namespaces/default/pods/x/log/more", None),
        ("/apis/serving.knative.dev/v2/services", None),
        ("/", None),
    ],
)
def test_paths(path: str, expected: Target | None) -> None:
    assert parse(path) == expected


@UNHURRIED
@given(st.binary(max_size=64))
def test_broken_protobuf_is_refused(noise: bytes) -> None:
    with pytest.raises((ValueError, faults.UnsupportedMediaType)):
        protobuf.parsed(b"k8s\x00" + noise)
