"""What an exported graph may ask of torch when it is loaded and called: tensors and tensor operators, nothing else.

A graph without any pickle can still run code: torch evaluates `expr_str` (sympy's sympify is Python's eval), executes
`guards_code`, resolves a node's `target` as any attribute of the torch module (`torch.os.system`), writes names and
metadata into Python source that it executes, and imports the classes that a tree spec names. So the JSON of
torch/_export/serde/schema.py (8.x) is walked whole: every string is a plain word, unless a rule for its key says
what else it may be.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

MAX_EXPRESSION: Final = 1000
MAX_NUMBER: Final = 2**63
MAX_POWERS: Final = 2

_WORD = re.compile(r"(?!__)[A-Za-z0-9_.+-]{0,500}")
_IDENTIFIER = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]{0,499}")
_ARGUMENT_TEXT = re.compile(r"[ -~]{0,500}")
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{0,20})?(e[+-]?[0-9]{1,3})?")
_SYMBOL = re.compile(r"[a-z]{1,8}[0-9]{1,9}")

_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.[a-z0-9_]{1,100}\.[A-Za-z0-9_]{1,100}"
    r"|torch\.ops\.higher_order\.(cond|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.sym_(float|int|ite|max|min|not|sqrt|sum)"
    r"|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|and_|eq|floordiv|ge|getitem|gt|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow|rshift|sub|truediv)"
)
_OPERATORS_OF_FILES = frozenset({"from_file", "save", "load"})

# The operator arguments that are text by their schema; a file's name is none of them.
_TEXT_ARGUMENTS = frozenset(
    {
        *("approximate", "assert_msg", "equation", "indexing", "mode", "ord", "padding", "padding_mode"),
        *("reduce", "rounding_mode"),
    }
)
_FUNCTIONS = frozenset(
    {
        *("FloorDiv", "CeilDiv", "CleanDiv", "FloatTrueDiv", "IntTrueDiv", "Mod", "PythonMod", "ModularIndexing"),
        *("CeilToInt", "FloorToInt", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat"),
        *("Where", "Identity", "IsNonOverlappingAndDenseIndicator", "floor", "ceiling"),
        *("Add", "Mul", "Pow", "Integer", "Rational", "Float", "Max", "Min", "Abs", "And", "Or", "Not"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "LessThan", "GreaterThan"),
        *("StrictLessThan", "StrictGreaterThan"),
    }
)
_ASSUMPTIONS = frozenset({"positive", "nonnegative", "integer", "real", "precision"})
_ASSUMED = frozenset({"True", "False", "53"})  # 53: the bits of a double
# What is evaluated stays small: a power of a power of a power would fill the memory.
_EXPONENTS = frozenset({"Integer(-1)", "Integer(2)", "Integer(3)", "-1", "2", "3"})
_TREE_TYPES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict"})


class GraphRefused(ValueError):
    """Says what was seen in the graph; `whimbrel.core.pt2` adds the file's name."""


def check_program(document: Mapping[str, Any]) -> None:
    """Raises GraphRefused for an exported program (the JSON of models/model.json) that asks for more than tensors."""
    _check_object(document)


def _check(value: Any) -> None:
    if isinstance(value, str):
        _check_word(value)
    elif isinstance(value, list):
        for element in value:
            _check(element)
    elif isinstance(value, dict):
        _check_object(value)


def _check_object(value: Mapping[str, Any]) -> None:
    text_allowed = value.get("name") in _TEXT_ARGUMENTS
    for key, inner in value.items():
        _check_word(key)
        if key == "arg" and text_allowed and isinstance(inner, dict) and inner.keys() == {"as_string"}:
            _check_argument_text(inner["as_string"])
        else:
            _RULES.get(key, _check)(inner)


def _check_word(text: str) -> None:
    if not _WORD.fullmatch(text) or any(part.startswith("__") for part in text.split(".")):
        _refuse("a name", text)


def _check_argument_text(text: Any) -> None:
    if not isinstance(text, str) or not _ARGUMENT_TEXT.fullmatch(text):
        _refuse("an operator's argument", text)


def _check_name(name: Any) -> None:
    if name not in (None, "") and not (isinstance(name, str) and _IDENTIFIER.fullmatch(name)):
        _refuse("a name", name)


def _check_names(names: Any) -> None:
    for name in names or ():
        _check_name(name)


def _check_named_values(values: Any) -> None:
    _check_names(values)
    _check(values)


def _check_operator(target: Any) -> None:
    if not isinstance(target, str) or not _OPERATORS.fullmatch(target):
        _refuse("an operator that is none of tensors", target)
    if _OPERATORS_OF_FILES & set(target.split(".")):
        _refuse("an operator on files", target)


def _check_empty(value: Any) -> None:
    if value not in (None, {}, [], ""):
        _refuse(
            "source code or metadata of the exporter ('whimbrel model import' leaves them out), or an object "
            "that only a pickle can carry",
            value,
        )


def _check_refused(value: Any) -> None:
    _refuse("an object, or text where an operator takes a tensor or a number", value)


def _check_expression(text: Any) -> None:
    """A number, a symbol, or shape functions of such, as sympy's srepr writes them; text names symbols only."""
    if not isinstance(text, str) or len(text) > MAX_EXPRESSION or text.count("Pow") > MAX_POWERS:
        _refuse("an expression", text)
    try:
        if not _is_expression(ast.parse(text, mode="eval").body):
            _refuse("an expression", text)
    except SyntaxError:
        _refuse("an expression", text)


def _is_expression(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return _is_shape_function(node)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_expression(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and abs(node.value) <= MAX_NUMBER


def _is_shape_function(call: ast.Call) -> bool:
    function = ast.unparse(call.func).removeprefix("torch.utils._sympy.functions.")
    if any(word.arg not in _ASSUMPTIONS or ast.unparse(word.value) not in _ASSUMED for word in call.keywords):
        return False
    if function in ("Symbol", "Float"):
        return len(call.args) == 1 and _is_symbol_or_number(call.args[0])
    if function == "Pow" and (len(call.args) != 2 or ast.unparse(call.args[1]) not in _EXPONENTS):
        return False
    return function in _FUNCTIONS and all(_is_expression(argument) for argument in call.args)


def _is_symbol_or_number(node: ast.expr) -> bool:
    text = node.value if isinstance(node, ast.Constant) else None
    return isinstance(text, str) and bool(_SYMBOL.fullmatch(text) or _NUMBER.fullmatch(text))


def _check_tree(text: Any) -> None:
    """A pytree spec, itself JSON: tuples, lists and dicts with plain keys."""
    protocol, root = json.loads(text)
    if protocol != 1:
        _refuse("a tree spec", text)
    pending = [root]
    while pending:
        node = pending.pop()
        if node["type"] is not None and node["type"] not in _TREE_TYPES:
            _refuse("a tree spec with a class", node["type"])
        context = node["context"] and json.loads(node["context"])
        if context is not None and node["type"] != "builtins.dict":
            _refuse("a tree spec", text)
        _check_names(context)
        pending.extend(node["children_spec"])


def _refuse(what: str, seen: Any) -> NoReturn:
    raise GraphRefused(f"{what} in the graph: {str(seen)[:120]!r}")


_RULES: Final[Mapping[str, Callable[[Any], None]]] = {
    "name": _check_name,
    "as_name": _check_name,
    "forward_arg_names": _check_names,
    "tensor_values": _check_named_values,
    "sym_int_values": _check_named_values,
    "sym_bool_values": _check_named_values,
    "sym_float_values": _check_named_values,
    "range_constraints": _check_named_values,
    "target": _check_operator,
    "as_operator": _check_operator,
    "expr_str": _check_expression,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
    "metadata": _check_empty,
    "guards_code": _check_empty,
    "custom_obj_values": _check_empty,
    "treespec_namedtuple_fields": _check_empty,
    "as_custom_obj": _check_refused,
    "custom_obj": _check_refused,
    "as_string": _check_refused,
    "as_strings": _check_refused,
    "as_string_to_argument": _check_refused,
}
