"""Whatever JSON, tensor or contract comes: it is read, or refused with a reason in one line; nothing else happens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whimbrel.core import v2_rest
from whimbrel.core.errors import InputRefused
from whimbrel.core.references import ObjectRef
from whimbrel.transformers.contract import contract_of
from whimbrel.transformers.inputs import Url, images_of_v1, images_of_v2

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))
LOCATIONS = st.text() | st.sampled_from(
    ["http://", "https://[", "s3://", "s3://b", "s3://b/", "s3://[/k", "s3://b/%00"]
)
INSTANCES = st.lists(st.dictionaries(st.sampled_from(["b64", "url", "s3", "x"]), LOCATIONS, max_size=2), max_size=3)
CONTRACT_FIELDS = st.sampled_from(["protocol", "size", "labels", "labels_file", "normalisation", "dtype", "x", ""])


@settings(deadline=None)
@given(JSON | st.fixed_dictionaries({"instances": INSTANCES | JSON}))
def test_a_v1_request_is_read_or_refused(document: Any) -> None:
    try:
        images = images_of_v1(document, {})
    except InputRefused as refused:
        assert str(refused)
        assert "\n" not in str(refused)
    else:
        assert all(isinstance(image.source, bytes | Url | ObjectRef) for image in images)


@settings(deadline=None)
@given(st.binary(max_size=64), st.lists(st.integers(-1, 3), max_size=3), st.none() | st.integers(-1, 70))
def test_a_v2_request_is_read_or_refused(tensor: bytes, shape: list[int], size: int | None) -> None:
    described = {"name": "a", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [described]}).encode()
    try:
        images = images_of_v2(v2_rest.parse(head + tensor, len(head), "digits"))
    except InputRefused as refused:
        assert str(refused)
    else:
        assert all(isinstance(image.source, bytes) for image in images)


@settings(deadline=None)
@example({"\n": None})
@given(st.dictionaries(CONTRACT_FIELDS, JSON) | JSON)
def test_a_contract_is_read_or_refused(document: Any) -> None:
    with pytest.raises(ValueError) as refused:  # none of these is a whole one
        contract_of(json.dumps(document) + "\n")
    assert str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["1: 2\n", "2026-01-01: a\n", "? [a]\n: b\n", "&a [*a]\n", "a: \x00\n", "[" * 5000])
def test_odd_yaml_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        contract_of(text)
    assert "\n" not in str(refused.value)
