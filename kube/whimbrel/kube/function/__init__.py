"""The function file: one short YAML that says what is to become of the images of a bucket."""

from whimbrel.kube.function.embedded_store import embedded_store, is_embedded_store
from whimbrel.kube.function.model import Function
from whimbrel.kube.function.reading import FunctionRefused, is_function, read_function
from whimbrel.kube.function.render import render

__all__ = [
    "Function",
    "FunctionRefused",
    "embedded_store",
    "is_embedded_store",
    "is_function",
    "read_function",
    "render",
]
