"""As much of OpenAPI 2 as kubectl still asks for: before it takes a List apart, whether PATCH takes `fieldValidation`.

It reads this document as protobuf only. The numbers are those of gnostic's OpenAPIv2.proto,
https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto.
"""

from __future__ import annotations

from typing import Any

from whimbrel.local.api.discovery import VERSION
from whimbrel.local.api.protobuf import field

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
ASKED_FOR = "proto-openapi.spec.v2"  # in an Accept header

_TITLE = "Kubernetes, on one machine"


def document() -> dict[str, Any]:
    """As JSON, for clients that only look whether it is there."""
    info = {"title": _TITLE, "version": VERSION["gitVersion"]}
    return {"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}


def as_protobuf() -> bytes:
    """With the one operation that kubectl looks up for a List: the patch of a Namespace."""
    parameter = field(1, field(2, field(3, field(2, "query") + field(4, "fieldValidation"))))
    described = field(2, 'group: ""\nkind: Namespace\nversion: v1\n')
    extension = field(1, "x-kubernetes-group-version-kind") + field(2, described)
    patch = field(8, parameter) + field(9, b"") + field(13, extension)
    path = field(1, "/api/v1/namespaces/{name}") + field(2, field(8, patch))
    info = field(1, _TITLE) + field(2, VERSION["gitVersion"])
    return field(1, "2.0") + field(2, info) + field(8, field(2, path))
