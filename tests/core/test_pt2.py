"""A model.pt2 is taken when it is tensors and a graph, and refused, by its name, for everything else."""

from __future__ import annotations

import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed import pt2_archives
from whimbrel.core import pt2
from whimbrel.core.errors import PackageRefused

Entries = dict[str, bytes]
Program = dict[str, Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt2"


def is_taken(path: Path) -> bool:
    try:
        pt2.check(path)
    except PackageRefused:
        return False
    return True


def test_a_plain_network_is_taken(path: Path) -> None:
    pt2_archives.write(path, pt2_archives.entries())
    assert is_taken(path)


def object_constant(name: str) -> Entries:
    payload = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
    return pt2_archives.entries(constants={"config": {"c": payload}}) | {f"data/constants/{name}": b"pickle"}


NOT_PLAIN: dict[str, tuple[Callable[[], Entries], str]] = {
    "sample inputs": (lambda: pt2_archives.entries() | {"data/sample_inputs/model.pt": b"pickle"}, "sample inputs"),
    "a pickled weight": (
        lambda: pt2_archives.entries(weights=pt2_archives.weights_config(use_pickle=True)),
        "a pickle",
    ),
    "no word on pickling": (lambda: pt2_archives.entries(weights={"config": {"w": {}}}), "a pickle"),
    "a custom object": (lambda: object_constant("custom_obj_0"), "only a pickle can carry"),
    "an opaque object": (lambda: object_constant("opaque_obj_0"), "only a pickle can carry"),
    "older weights": (lambda: pt2_archives.entries() | {"data/weights/model.pt": b"x"}, "older format"),
    "older constants": (lambda: pt2_archives.entries() | {"data/constants/model.pt": b"x"}, "older format"),
    "machine code": (lambda: pt2_archives.entries() | {"data/aotinductor/model/a.so": b"x"}, "machine code"),
    "a second program": (lambda: pt2_archives.entries() | {"models/other.json": b"{}"}, "no part of a plain network"),
    "extra files": (lambda: pt2_archives.entries() | {"extra/notes.txt": b"x"}, "no part of a plain network"),
    "a tensor elsewhere": (
        lambda: pt2_archives.entries(weights=pt2_archives.weights_config(path_name="../constants/tensor_0")),
        "no entry",
    ),
    "a size without bytes": (
        lambda: (
            pt2_archives.entries(
                weights=pt2_archives.weights_config(tensor_meta=pt2_archives.tensor_meta([{"as_int": 10**12}]))
            )
            | {"data/weights/weight_0": b""}
        ),
        "a size without bytes",
    ),
    "another version": (lambda: pt2_archives.entries() | {"archive_version": b"1"}, "format or version"),
    "no JSON": (lambda: pt2_archives.entries() | {"models/model.json": b"{"}, "no readable pt2 archive"),
    "deep JSON": (lambda: pt2_archives.entries() | {"models/model.json": b"[" * 100_000}, "nested too deep"),
    "a list as program": (lambda: pt2_archives.entries() | {"models/model.json": b"[]"}, "no JSON object"),
    "a long marker": (lambda: pt2_archives.entries() | {"byteorder": b"l" * 1000}, "1000 bytes"),
}


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_whatever_torch_would_unpickle_or_load_is_refused_by_name(case: str, path: Path) -> None:
    parts, said = NOT_PLAIN[case]
    with pytest.raises(PackageRefused, match=said):
        pt2.check(pt2_archives.write(path, parts()))


def test_a_missing_part_is_named(path: Path) -> None:
    parts = pt2_archives.entries()
    del parts["models/model.json"]
    with pytest.raises(PackageRefused, match="no entry 'models/model"):
        pt2.check(pt2_archives.write(path, parts))


def test_the_single_file_format_of_older_torch_is_refused(path: Path) -> None:
    parts = {"version": b"8.20", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": b"pickle"}
    with pytest.raises(PackageRefused, match="legacy format"):
        pt2.check(pt2_archives.write(path, parts, root=""))


def node_of(program: Program) -> dict[str, Any]:
    return program["graph_module"]["graph"]["nodes"][0]  # type: ignore[no-any-return]


def call_of(program: Program) -> dict[str, Any]:
    return program["graph_module"]["module_call_graph"][0]["signature"]  # type: ignore[no-any-return]


def with_expression(text: str) -> Callable[[Program], None]:
    def change(program: Program) -> None:
        program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = text

    return change


def with_target(target: str) -> Callable[[Program], None]:
    return lambda program: node_of(program).update(target=target)


def with_tree(kind: str, context: Any) -> Callable[[Program], None]:
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])
    return lambda program: call_of(program).update(in_spec=spec)


def with_input(name: str, argument: dict[str, Any]) -> Callable[[Program], None]:
    return lambda program: node_of(program)["inputs"].append({"name": name, "arg": argument, "kind": 2})


RUNS_CODE: dict[str, Callable[[Program], None]] = {
    "an expression that calls": with_expression("__import__('os').mkdir('x')"),
    "an expression with an attribute": with_expression("Integer(2).__class__"),
    "text in an expression": with_expression("""Mul('__import__("os")', Integer(2))"""),
    "a symbol that is none": with_expression("Symbol('x y')"),
    "a lambda": with_expression("(lambda: 1)()"),
    "a power that fills the memory": with_expression("Pow(Integer(9), Integer(999999999))"),
    "powers of powers": with_expression("Pow(Pow(Pow(Integer(9), Integer(3)), Integer(3)), Integer(3))"),
    "a number with a billion digits": with_expression("Float('0.1', precision=999999999)"),
    "no expression": with_expression("1 +"),
    "a function of the operating system": with_target("torch.os.system"),
    "torch's own unpickling": with_target("torch.load"),
    "an attribute of an operator": with_target("torch.ops.aten.mul.Tensor.__class__"),
    "an operator on files": with_target("torch.ops.aten.from_file.default"),
    "text for an operator": with_input("filename", {"as_string": "/etc/passwd"}),
    "text with a line break": with_input("approximate", {"as_string": "tanh\n"}),
    "an operator as argument": with_input("f", {"as_operator": "torch.os.system"}),
    "an object as argument": with_input("f", {"as_custom_obj": {"name": "a", "class_fqn": "b"}}),
    "guards, which are source code": lambda program: program.update(guards_code=["print(1)"]),
    "a stack trace, written into source code": lambda program: node_of(program).update(metadata={"stack_trace": "\nx"}),
    "a name that is source code": lambda program: node_of(program).update(name="x = 1; y"),
    "an argument that is source code": lambda program: call_of(program).update(forward_arg_names=["x=print(1)"]),
    "a parameter on a class": lambda program: program["graph_module"]["signature"]["input_specs"][0][
        "parameter"
    ].update(parameter_name="__class__.forward"),
    "a tensor whose name is source code": lambda program: program["graph_module"]["graph"]["tensor_values"].update(
        {"a;b": pt2_archives.tensor_meta([])}
    ),
    "a class in a tree": with_tree("collections.defaultdict", '{"default_factory_module": "os"}'),
    "an enum in a tree": with_tree("builtins.dict", '[{"__enum__": true, "fqn": "os:x"}]'),
}


@pytest.mark.parametrize("case", RUNS_CODE)
def test_a_graph_that_could_run_code_is_refused(case: str, path: Path) -> None:
    program = pt2_archives.program()
    RUNS_CODE[case](program)
    with pytest.raises(PackageRefused, match="in the graph"):
        pt2.check(pt2_archives.write(path, pt2_archives.entries(program=program)))


def test_the_text_arguments_of_operators_are_taken(path: Path) -> None:
    program = pt2_archives.program()
    with_input("approximate", {"as_string": "tanh"})(program)
    with_expression("Add(Mul(Integer(2), Symbol('s77', positive=True, integer=True)), Integer(-2))")(program)
    pt2_archives.write(path, pt2_archives.entries(program=program))
    assert is_taken(path)


def test_names_that_lead_out_are_refused(path: Path) -> None:
    for name in ("../evil", "data//weights", "data/./weights/weight_0", "data\\weights"):
        with pytest.raises(PackageRefused, match="outside of its root folder"):
            pt2.check(pt2_archives.write(path, pt2_archives.entries() | {name: b""}))
    for root in ("/", "../", "/etc/"):
        with pytest.raises(PackageRefused, match="root folder"):
            pt2.check(pt2_archives.write(path, pt2_archives.entries(), root=root))


def test_an_entry_twice_is_refused_whatever_its_case(path: Path) -> None:
    with pytest.raises(PackageRefused, match="twice"):
        pt2.check(pt2_archives.write(path, pt2_archives.entries() | {"BYTEORDER": b"big"}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(pt2_archives.write(path, pt2_archives.entries()), "a") as archive:
            archive.writestr("model/byteorder", b"big")
    with pytest.raises(PackageRefused, match="twice"):
        pt2.check(path)


def test_compressed_entries_are_refused_so_that_none_grows(path: Path) -> None:
    bomb = pt2_archives.entries() | {"models/model.json": b" " * 10_000_000}
    with pytest.raises(PackageRefused, match="compressed"):
        pt2.check(pt2_archives.write(path, bomb, compression=zipfile.ZIP_DEFLATED))


def test_an_encrypted_entry_is_refused(path: Path) -> None:
    content = bytearray(pt2_archives.write(path, pt2_archives.entries()).read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(PackageRefused, match="encrypted"):
        pt2.check(path)


def test_a_symbolic_link_is_refused(path: Path) -> None:
    with zipfile.ZipFile(pt2_archives.write(path, pt2_archives.entries()), "a") as archive:
        link = zipfile.ZipInfo("model/data/weights/weight_1")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(PackageRefused, match="symbolic link"):
        pt2.check(path)


def test_two_entries_on_the_same_bytes_are_refused(path: Path) -> None:
    weights = b"\0" * 100_000
    parts = pt2_archives.entries() | {"data/weights/weight_1": weights, "data/weights/weight_2": b""}
    content = bytearray(pt2_archives.write(path, parts).read_bytes())
    first, second = (
        content.rindex(name) - 46 for name in (b"model/data/weights/weight_1", b"model/data/weights/weight_2")
    )
    content[second + 20 : second + 28] = content[first + 20 : first + 28]  # the sizes of the other
    path.write_bytes(content)
    with pytest.raises(PackageRefused, match="overlap"):
        pt2.check(path)


def with_bytes_before(archive: bytes) -> bytes:
    return b"#!/bin/sh\n" + archive


def with_bytes_behind(archive: bytes) -> bytes:
    return archive + b"\0" * 8


def with_a_comment(archive: bytes) -> bytes:
    return archive[:-2] + struct.pack("<H", 4) + b"more"


def with_a_second_directory(archive: bytes) -> bytes:
    """A zip64 locator that points at one directory, in front of an end record that points at another."""
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 46, 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(archive) - 22, 1)
    return archive[:-22] + record + locator + archive[-22:]


@pytest.mark.parametrize("change", [with_bytes_before, with_bytes_behind, with_a_comment, with_a_second_directory])
def test_a_zip_that_another_reader_could_read_otherwise_is_refused(
    change: Callable[[bytes], bytes], path: Path
) -> None:
    path.write_bytes(change(pt2_archives.write(path, pt2_archives.entries()).read_bytes()))
    with pytest.raises(PackageRefused, match="expected a network exported without pickles"):
        pt2.check(path)


def test_what_is_no_archive_is_refused(path: Path) -> None:
    for content in (b"", b"PK", b"\x80\x02c__builtin__\nprint\n.", b"PK\x05\x06" + b"\0" * 18):
        path.write_bytes(content)
        with pytest.raises(PackageRefused, match="expected a network exported without pickles"):
            pt2.check(path)
    path.unlink()
    with pytest.raises(PackageRefused, match="no such file"):
        pt2.check(path)
