"""The stored objects: versions, conflicts, deletion with finalizers and owners, and what a kill leaves."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from testbed.processes import environment
from whimbrel.core.errors import SettingsError
from whimbrel.local.api import faults, kinds, selectors
from whimbrel.local.api import metadata as meta
from whimbrel.local.api.deletion import Propagation
from whimbrel.local.api.server import open_storage
from whimbrel.local.api.storage import Preconditions, Storage
from whimbrel.local.api.watching import Watch, meaning, watch

ISVC = kinds.INFERENCE_SERVICE


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage(tmp_path / "objects.db")
    yield opened
    opened.close()


def an(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "spec": {"predictor": {"minReplicas": 1}}}


def owned(name: str, *owners: dict[str, Any]) -> dict[str, Any]:
    references = [
        {"apiVersion": each["apiVersion"], "kind": each["kind"], **{f: each["metadata"][f] for f in ("name", "uid")}}
        for each in owners
    ]
    return {"metadata": {"name": name, "ownerReferences": references}, "spec": {}}


def changed(found: dict[str, Any], replicas: int) -> dict[str, Any]:
    return {**found, "spec": {"predictor": {"minReplicas": replicas}}}


def test_a_new_object_is_stamped_and_has_no_status_of_its_own(storage: Storage) -> None:
    found = storage.create(ISVC, {**an("digits"), "status": {"url": "mine"}})
    metadata = found["metadata"]
    assert (found["apiVersion"], found["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert metadata["namespace"] == "default" and metadata["generation"] == 1 and metadata["uid"]
    assert metadata["resourceVersion"] == str(storage.version)
    assert "status" not in found
    assert storage.get(ISVC, "default", "digits") == found


def test_a_taken_name_and_a_missing_namespace_are_refused(storage: Storage) -> None:
    storage.create(ISVC, an("digits"))
    with pytest.raises(faults.AlreadyExists, match=r'inferenceservices\.serving\.kserve\.io "digits" already'):
        storage.create(ISVC, an("digits"))
    with pytest.raises(faults.NotFound, match='namespaces "nowhere" not found'):
        storage.create(ISVC, an("digits", namespace="nowhere"))


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "Digits"}, "metadata.name"),
        ({}, "metadata.name"),
        ({"name": "digits", "labels": {"a": 1}}, "metadata.labels.a"),
        ({"name": "digits", "labels": {"a": "no spaces"}}, "metadata.labels.a"),
        ({"name": "digits", "annotations": {"y": True}}, "metadata.annotations.y"),
    ],
)
def test_wrong_metadata_is_refused_by_its_path(storage: Storage, metadata: dict[str, Any], field: str) -> None:
    with pytest.raises(faults.Invalid) as refused:
        storage.create(ISVC, {"metadata": metadata, "spec": {}})
    assert [cause["field"] for cause in refused.value.body()["details"]["causes"]] == [field]


def test_generate_name_gives_names_of_their_own(storage: Storage) -> None:
    names = {
        storage.create(kinds.POD, {"metadata": {"generateName": "p-"}, "spec": {}})["metadata"]["name"] for _ in "ab"
    }
    assert len(names) == 2 and all(name.startswith("p-") and len(name) == 7 for name in names)


def test_only_a_change_of_the_spec_is_a_new_generation(storage: Storage) -> None:
    first = storage.create(ISVC, an("digits"))
    labelled = storage.update(ISVC, {**first, "metadata": {**first["metadata"], "labels": {"a": "b"}}})
    with_status = storage.update(ISVC, {**labelled, "status": {"url": "http://x"}}, subresource="status")
    scaled = storage.update(ISVC, changed(with_status, 2))
    assert [each["metadata"]["generation"] for each in (labelled, with_status, scaled)] == [1, 1, 2]
    assert scaled["status"] == {"url": "http://x"}


def test_the_status_is_written_by_its_subresource_alone(storage: Storage) -> None:
    first = storage.create(ISVC, an("digits"))
    storage.update(ISVC, {**first, "status": {"url": "http://x"}})
    assert "status" not in storage.get(ISVC, "default", "digits")
    written = storage.update(ISVC, {**changed(first, 5), "status": {"url": "http://x"}}, subresource="status")
    assert written["spec"] == first["spec"] and written["status"] == {"url": "http://x"}


def test_an_update_of_an_old_version_conflicts_and_one_without_change_is_none(storage: Storage) -> None:
    first = storage.create(ISVC, an("digits"))
    second = storage.update(ISVC, changed(first, 2))
    with pytest.raises(faults.Conflict, match="the object has been modified"):
        storage.update(ISVC, changed(first, 3))
    assert storage.update(ISVC, second) == second
    assert storage.version == int(second["metadata"]["resourceVersion"])


def test_concurrent_changes_are_all_kept(storage: Storage) -> None:
    storage.create(kinds.CONFIG_MAP, {"metadata": {"name": "count"}, "data": {"n": "0"}})

    def one_more(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "data": {"n": str(int(found["data"]["n"]) + 1)}}

    def count() -> None:
        for _ in range(25):
            storage.modify(kinds.CONFIG_MAP, "default", "count", one_more)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.get(kinds.CONFIG_MAP, "default", "count")["data"] == {"n": "100"}


def test_a_dry_run_answers_and_changes_nothing(storage: Storage) -> None:
    version = storage.version
    assert storage.create(ISVC, an("digits"), dry_run=True)["metadata"]["uid"]
    assert storage.list(ISVC) == [] and storage.version == version
    first = storage.create(ISVC, an("digits"))
    assert storage.update(ISVC, changed(first, 4), dry_run=True)["metadata"]["generation"] == 2
    assert storage.delete(ISVC, "default", "digits", dry_run=True) is None
    assert storage.get(ISVC, "default", "digits") == first


def test_a_finalizer_keeps_an_object_until_it_is_taken_away(storage: Storage) -> None:
    storage.create(ISVC, an("digits", finalizers=["whimbrel.dev/test"]))
    kept = storage.delete(ISVC, "default", "digits")
    assert kept is not None and kept["metadata"]["deletionTimestamp"]
    with pytest.raises(faults.Forbidden, match="no finalizer can be added"):
        storage.update(ISVC, {**kept, "metadata": {**kept["metadata"], "finalizers": ["a/b", "c/d"]}})
    storage.update(ISVC, {**kept, "metadata": {**kept["metadata"], "finalizers": []}})
    with pytest.raises(faults.NotFound):
        storage.get(ISVC, "default", "digits")


def test_what_belongs_to_a_deleted_object_goes_with_it(storage: Storage) -> None:
    service = storage.create(ISVC, an("digits"))
    other = storage.create(ISVC, an("other"))
    revision = storage.create(kinds.REVISION, owned("digits-1", service))
    storage.create(kinds.POD, owned("digits-1-pod", revision))
    storage.create(kinds.POD, owned("of-both", service, other))
    storage.delete(ISVC, "default", "digits")
    assert storage.list(kinds.REVISION) == []
    assert [pod["metadata"]["name"] for pod in storage.list(kinds.POD)] == ["of-both"]


def test_a_foreground_deletion_waits_for_the_dependents(storage: Storage) -> None:
    service = storage.create(ISVC, an("digits"))
    pod = owned("pod", service)
    pod["metadata"]["finalizers"] = ["whimbrel.dev/stops"]
    storage.create(kinds.POD, pod)
    kept = storage.delete(ISVC, "default", "digits", propagation="Foreground")
    assert kept is not None and kept["metadata"]["finalizers"] == ["foregroundDeletion"]
    stopped = storage.get(kinds.POD, "default", "pod")
    storage.update(kinds.POD, {**stopped, "metadata": {**stopped["metadata"], "finalizers": []}})
    assert storage.list(kinds.POD) == [] and storage.list(ISVC) == []


def test_orphans_stay_and_belong_to_nobody(storage: Storage) -> None:
    service = storage.create(ISVC, an("digits"))
    storage.create(kinds.POD, owned("pod", service))
    storage.delete(ISVC, "default", "digits", propagation="Orphan")
    assert ["ownerReferences" in pod["metadata"] for pod in storage.list(kinds.POD)] == [False]


def test_a_namespace_ends_when_the_last_object_in_it_has_gone(storage: Storage) -> None:
    storage.create(kinds.NAMESPACE, {"metadata": {"name": "birds"}})
    storage.create(ISVC, an("digits", namespace="birds"))
    storage.create(ISVC, an("kept", namespace="birds", finalizers=["a/b"]))
    ending = storage.delete(kinds.NAMESPACE, None, "birds")
    assert ending is not None and ending["status"] == {"phase": "Terminating"}
    with pytest.raises(faults.Forbidden, match="is being terminated"):
        storage.create(ISVC, an("late", namespace="birds"))
    kept = storage.get(ISVC, "birds", "kept")
    storage.update(ISVC, {**kept, "metadata": {**kept["metadata"], "finalizers": []}})
    assert [each["metadata"]["name"] for each in storage.list(kinds.NAMESPACE)] == ["default"]


def test_an_empty_namespace_ends_at_once(storage: Storage) -> None:
    storage.create(kinds.NAMESPACE, {"metadata": {"name": "empty"}})
    assert storage.delete(kinds.NAMESPACE, None, "empty") is None
    with pytest.raises(faults.Forbidden, match="may not be deleted"):
        storage.delete(kinds.NAMESPACE, None, "default")


@pytest.mark.parametrize("propagation", get_args(Propagation))
def test_owners_in_a_circle_can_be_deleted(storage: Storage, propagation: Propagation) -> None:
    first = storage.create(kinds.POD, owned("first"))
    second = storage.create(kinds.POD, owned("second", first))
    storage.update(kinds.POD, owned("first", second))
    storage.delete(kinds.POD, "default", "first", propagation=propagation)
    left = [pod["metadata"]["name"] for pod in storage.list(kinds.POD) if not meta.is_terminating(pod)]
    assert left == (["second"] if propagation == "Orphan" else [])


def test_a_delete_can_name_the_very_object(storage: Storage) -> None:
    found = storage.create(ISVC, an("digits"))
    with pytest.raises(faults.Conflict, match="precondition"):
        storage.delete(ISVC, "default", "digits", preconditions=Preconditions(uid="another"))
    storage.delete(ISVC, "default", "digits", preconditions=Preconditions(uid=found["metadata"]["uid"]))
    assert storage.list(ISVC) == []


def test_lists_come_in_order_by_selector_and_in_pages(storage: Storage) -> None:
    for number in range(7):
        storage.create(ISVC, an(f"d-{number}", labels={"parity": str(number % 2)}))
    odd = selectors.parse("parity=1")
    assert [each["metadata"]["name"] for each in storage.list(ISVC, "default", odd)] == ["d-1", "d-3", "d-5"]
    names, after = [], ("", "")
    while True:
        page = storage.page(ISVC, None, limit=3, after=after)
        names.append([each["metadata"]["name"] for each in page.items])
        if page.after is None:
            break
        after = page.after
    assert names == [["d-0", "d-1", "d-2"], ["d-3", "d-4", "d-5"], ["d-6"]]


@pytest.mark.parametrize(
    ("labels", "fields", "expected"),
    [
        ("", "", True),
        ("app=digits", "", True),
        ("app==digits,tier!=front", "", True),
        ("app in (a, digits),!gone", "", True),
        ("app notin (digits)", "", False),
        ("gone", "", False),
        ("", "metadata.name=x", True),
        ("", "metadata.name!=x", False),
        ("", "status.phase=", True),
        ("app.kubernetes.io/name=", "", False),
    ],
)
def test_selectors(labels: str, fields: str, expected: bool) -> None:
    assert selectors.parse(labels, fields).matches({"metadata": {"name": "x", "labels": {"app": "digits"}}}) is expected


@pytest.mark.parametrize(("labels", "fields"), [("a in b", ""), ("a=b=c d", ""), ("", "metadata.name")])
def test_selectors_that_cannot_be_read(labels: str, fields: str) -> None:
    with pytest.raises(faults.BadRequest, match="selector: expected"):
        selectors.parse(labels, fields)


def test_history_that_is_no_longer_remembered_is_gone(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "objects.db", history_rows=5)
    first = storage.version
    for number in range(6):
        storage.create(ISVC, an(f"d-{number}"))
    with pytest.raises(faults.Gone, match="too old resource version"):
        storage.changes(ISVC, None, first)
    with pytest.raises(faults.Gone):
        storage.changes(ISVC, None, storage.version + 1)  # of another life of this file
    assert len(storage.changes(ISVC, None, storage.version - 5).items) == 5
    storage.close()


@pytest.mark.anyio
async def test_a_watch_of_a_quiet_kind_keeps_up_with_the_history(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "objects.db", history_rows=5)
    async with asyncio.timeout(30):
        with Watch(storage, ISVC, None, storage.version) as place:
            waiting = asyncio.create_task(place.next())
            for number in range(20):
                storage.create(kinds.LEASE, {"metadata": {"name": f"l-{number}"}, "spec": {}})
                while place.version < storage.version:  # noqa: ASYNC110  nothing announces this number
                    await asyncio.sleep(0.001)
            storage.create(ISVC, an("digits"))
            changes = await waiting
    assert changes and [change.object["metadata"]["name"] for change in changes] == ["digits"]
    storage.close()


def test_history_is_bounded_in_bytes(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "objects.db", history_bytes=20_000)
    for number in range(5):
        storage.create(kinds.CONFIG_MAP, {"metadata": {"name": f"c-{number}"}, "data": {"x": "y" * 9_000}})
    assert len(storage.changes(None, None, storage.version - 2).items) == 2
    with pytest.raises(faults.Gone):
        storage.changes(None, None, storage.version - 3)
    storage.close()


def test_too_many_and_too_large_objects_are_refused(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "objects.db", max_objects=2)
    storage.create(ISVC, an("one"))
    with pytest.raises(faults.Forbidden, match="expected at most 2 objects"):
        storage.create(ISVC, an("two"))
    storage.delete(ISVC, "default", "one")
    with pytest.raises(faults.TooLarge, match="expected 1572864 bytes at most"):
        storage.create(kinds.CONFIG_MAP, {"metadata": {"name": "big"}, "data": {"x": "y" * 1_600_000}})
    storage.close()


def test_the_oldest_events_make_room(storage: Storage) -> None:
    for number in range(1001):
        storage.create(kinds.EVENT, {"metadata": {"name": f"e-{number:04}"}, "reason": "Test"})
    names = [event["metadata"]["name"] for event in storage.list(kinds.EVENT)]
    assert len(names) == 901 and names[0] == "e-0100"


@pytest.mark.anyio
async def test_a_watch_tells_every_change_once_and_in_order(storage: Storage) -> None:
    def write() -> None:
        for number in range(50):
            found = storage.create(ISVC, an(f"d-{number}"))
            storage.update(ISVC, changed(found, 2))
            storage.delete(ISVC, "default", f"d-{number}")

    start, seen = storage.version, []
    writing = asyncio.create_task(asyncio.to_thread(write))
    async with asyncio.timeout(30):
        async for change in watch(storage, ISVC, None, start):
            seen.append((change.type, change.object["metadata"]["name"]))
            if len(seen) >= 150:
                break
    await writing
    assert seen == [(type_, f"d-{number}") for number in range(50) for type_ in ("ADDED", "MODIFIED", "DELETED")]


def test_an_object_that_leaves_a_selection_is_deleted_for_its_watchers(storage: Storage) -> None:
    start = storage.version
    found = storage.create(ISVC, an("digits", labels={"a": "b"}))
    found = storage.update(ISVC, {**found, "metadata": {**found["metadata"], "labels": {"a": "c"}}})
    storage.update(ISVC, {**found, "metadata": {**found["metadata"], "labels": {"a": "b"}}})
    storage.delete(ISVC, "default", "digits")
    seen = [meaning(change, selectors.parse("a=b")) for change in storage.changes(ISVC, None, start).items]
    assert [event and event[0] for event in seen] == ["ADDED", "DELETED", "ADDED", "DELETED"]


_WRITER = """
import sys
from pathlib import Path
from whimbrel.local.api import kinds
from whimbrel.local.api.storage import Storage
storage = Storage(Path(sys.argv[1]))
for number in range(100_000):
    found = storage.create(kinds.LEASE, {"metadata": {"name": f"l-{number}"}, "spec": {}})
    print(number, found["metadata"]["resourceVersion"], flush=True)
"""


def test_what_was_answered_survives_a_kill_and_versions_go_on(tmp_path: Path) -> None:
    file = tmp_path / "objects.db"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(file)], stdout=subprocess.PIPE, text=True, env=environment()
    ) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline() for _ in range(200)]
        writer.send_signal(signal.SIGKILL)
        answered += writer.stdout.readlines()
    whole = [line for line in answered if line.endswith("\n")]
    last, version = (int(word) for word in whole[-1].split())
    storage = Storage(file)
    present = {each["metadata"]["name"] for each in storage.list(kinds.LEASE)}
    assert {f"l-{number}" for number in range(last + 1)} <= present
    assert storage.version >= version
    assert len(storage.changes(kinds.LEASE, None, version - 100).items) >= 100
    assert int(storage.create(ISVC, an("digits"))["metadata"]["resourceVersion"]) > version
    storage.close()


_FULL = """
import resource, signal, sys
from pathlib import Path
from whimbrel.local.api import faults, kinds
from whimbrel.local.api.storage import Storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails, as on a full disk
storage = Storage(Path(sys.argv[1]))
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
written = []
try:
    for number in range(100_000):
        storage.create(kinds.CONFIG_MAP, {"metadata": {"name": f"c-{number}"}, "data": {"x": "y" * 5_000}})
        written.append(f"c-{number}")
except faults.ApiFault as fault:
    print(fault.body()["message"])
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
storage.create(kinds.CONFIG_MAP, {"metadata": {"name": "after"}})
names = {each["metadata"]["name"] for each in storage.list(kinds.CONFIG_MAP)}
print(len(written) > 10, names == {*written, "after"})
"""


def test_a_full_disk_refuses_a_write_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL, str(tmp_path / "objects.db")]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120, check=False)
    message, *rest = ended.stdout.splitlines()
    assert "the object cannot be written" in message and "disk" in message, ended.stderr
    assert rest == ["True True"]


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "objects.db").write_bytes(b"not a database, by any means" * 100)
    with pytest.raises(SettingsError, match="move it away, or choose another --state"):
        open_storage(tmp_path)
