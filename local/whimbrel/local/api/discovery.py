"""What the API tells of itself: its version, groups, kinds, and who may do what (everybody with the token, all)."""

from __future__ import annotations

from typing import Any

from whimbrel.local.api.kinds import KINDS, POD, Kind
from whimbrel.local.api.scale import SCALE, SCALED

VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.0+whimbrel", "platform": "one-machine"}

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_REVIEWS = {
    ("authorization.k8s.io", "v1"): ("SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    ("authentication.k8s.io", "v1"): ("SelfSubjectReview", "selfsubjectreviews"),
}


def core_versions() -> dict[str, Any]:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_versions() -> list[tuple[str, str]]:
    """Every group but the core one, with its versions, in the order of the registry."""
    return list(dict.fromkeys([*((kind.group, kind.version) for kind in KINDS if kind.group), *_REVIEWS]))


def groups() -> dict[str, Any]:
    names = dict.fromkeys(group for group, _ in group_versions())
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in names]}


def group(name: str) -> dict[str, Any] | None:
    if name not in {each for each, _ in group_versions()}:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name)}


def resources(group: str, version: str) -> dict[str, Any] | None:
    found = [each for kind in KINDS if (kind.group, kind.version) == (group, version) for each in _resources(kind)]
    if review := _REVIEWS.get((group, version)):
        found.append(
            {"name": review[1], "singularName": "", "namespaced": False, "kind": review[0], "verbs": ["create"]}
        )
    if not found:
        return None
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": found}


def review(path: str) -> dict[str, Any] | None:
    """The answer to a review of one's own rights, whatever is asked about; None where `path` is none."""
    for (group, version), (kind, plural) in _REVIEWS.items():
        if path.strip("/") == f"apis/{group}/{version}/{plural}":
            answer = {"allowed": True, "reason": "the token of this engine allows everything"}
            user = {"userInfo": {"username": "whimbrel", "groups": ["system:authenticated"]}}
            status = answer if kind == "SelfSubjectAccessReview" else user
            return {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": {}, "status": status}
    return None


def _group(name: str) -> dict[str, Any]:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for _, version in _versions(name)]
    return {"name": name, "versions": versions, "preferredVersion": versions[0], "serverAddressByClientCIDRs": []}


def _versions(name: str) -> list[tuple[str, str]]:
    """The later one first: clients prefer it. v1 before v1beta1 before v1alpha1."""
    found = [each for each in group_versions() if each[0] == name]
    return sorted(found, key=lambda each: ("alpha" in each[1], "beta" in each[1], each[1]))


def _resources(kind: Kind) -> list[dict[str, Any]]:
    base = {"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind}
    names: dict[str, Any] = {"shortNames": [*kind.short_names]} if kind.short_names else {}
    if kind.categories:
        names["categories"] = [*kind.categories]
    found = [{**base, "verbs": _VERBS, **names}]
    if kind.has_status:
        found.append({**base, "name": f"{kind.plural}/status", "singularName": "", "verbs": ["get", "patch", "update"]})
    if kind in SCALED:
        of_scale = {"group": SCALE.group, "version": SCALE.version, "kind": SCALE.kind}
        found.append({**found[-1], "name": f"{kind.plural}/scale", **of_scale})
    if kind is POD:
        found.append({**base, "name": "pods/log", "singularName": "", "verbs": ["get"]})
    return found
