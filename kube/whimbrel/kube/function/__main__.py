"""`python -m whimbrel.kube.function schema|reference`: what docs/ keeps of the model, written anew."""

from __future__ import annotations

import sys

from whimbrel.kube.function.reference import table
from whimbrel.kube.function.template import json_schema

_WRITES = {"schema": json_schema, "reference": table}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in _WRITES:
        sys.exit(f"expected one of {', '.join(_WRITES)}")
    sys.stdout.write(_WRITES[sys.argv[1]]())
