"""Exported networks written by hand, good and hostile: x (N, 3, 1, 1) times one weight."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = "model"
BATCH = "Symbol('s77', positive=True, integer=True)"
LEAF = {"type": None, "context": None, "children_spec": list[Any]()}


class Touch:
    """Whoever unpickles it creates the file: harmless, and seen."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def pickle_that_touches(marker: Path) -> bytes:
    return pickle.dumps(Touch(marker), protocol=2)


def tensor_meta(sizes: list[Any]) -> dict[str, Any]:
    strides = [{"as_int": 3 if len(sizes) == 4 and not axis else 1} for axis in range(len(sizes))]
    return {
        "dtype": 7,
        "sizes": sizes,
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": strides,
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def _images() -> dict[str, Any]:
    batch = {"as_expr": {"expr_str": BATCH, "hint": {"as_int": 2}}}
    return tensor_meta([batch, {"as_int": 3}, {"as_int": 1}, {"as_int": 1}])


def program() -> dict[str, Any]:
    """models/model.json of torch 2.15 for `x * w`."""

    def tensor(name: str) -> dict[str, Any]:
        return {"as_tensor": {"name": name}}

    def tree(kind: str, context: str, children: list[Any]) -> dict[str, Any]:
        return {"type": f"builtins.{kind}", "context": context, "children_spec": children}

    inputs = tree("tuple", "null", [tree("tuple", "null", [LEAF]), tree("dict", "[]", [])])
    node: dict[str, Any] = {
        "target": "torch.ops.aten.mul.Tensor",
        "inputs": [
            {"name": "self", "arg": tensor("x"), "kind": 1},
            {"name": "other", "arg": tensor("p_w"), "kind": 1},
        ],
        "outputs": [tensor("mul")],
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": "mul",
    }
    graph = {
        "inputs": [tensor("p_w"), tensor("x")],
        "outputs": [tensor("mul")],
        "nodes": [node],
        "tensor_values": {"p_w": tensor_meta([{"as_int": 1}]), "x": _images(), "mul": _images()},
        "sym_int_values": {},
        "sym_bool_values": {},
        "is_single_tensor_return": False,
        "custom_obj_values": {},
        "sym_float_values": {},
    }
    signature = {
        "input_specs": [
            {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
            {"user_input": {"arg": tensor("x")}},
        ],
        "output_specs": [{"user_output": {"arg": tensor("mul")}}],
    }
    call = {
        "inputs": [],
        "outputs": [],
        "in_spec": json.dumps([1, inputs]),
        "out_spec": json.dumps([1, LEAF]),
        "forward_arg_names": ["x"],
    }
    document = {
        "graph_module": {
            "graph": graph,
            "signature": signature,
            "module_call_graph": [{"fqn": "", "signature": call}],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10},
        "range_constraints": {"s77": {"min_val": 1, "max_val": 1024}},
        "schema_version": {"major": 8, "minor": 20},
        "verifiers": ["TRAINING"],
        "torch_version": "2.15.0",
        "guards_code": [],
    }
    return copy.deepcopy(document)  # no two parts are one object


def weights_config(**changes: Any) -> dict[str, Any]:
    payload = {
        "path_name": "weight_0",
        "is_param": True,
        "use_pickle": False,
        "tensor_meta": tensor_meta([{"as_int": 1}]),
    }
    return {"config": {"w": payload | changes}}


def entries(**changed_json: Any) -> dict[str, bytes]:
    """The archive's entries below its root folder. `program`, `weights`, `constants` replace its JSON parts."""
    return {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"6\n",
        "models/model.json": json.dumps(changed_json.get("program", program())).encode(),
        "data/weights/model_weights_config.json": json.dumps(changed_json.get("weights", weights_config())).encode(),
        "data/weights/weight_0": struct.pack("<f", 2.0),
        "data/constants/model_constants_config.json": json.dumps(
            changed_json.get("constants", {"config": {}})
        ).encode(),
        "data/sample_inputs/model.pt": b"",
    }


def write(path: Path, parts: Mapping[str, bytes], *, root: str = f"{ROOT}/", compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(root + name), content, compression)
    return path
