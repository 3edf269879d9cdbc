"""Where an output goes: a template of its key with named places, checked before anything is written; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from whimbrel.core.references import path_of_key

_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9 !'()*+,;=@&$:._/-]*")


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """`text` with places `{name}`. Make it with `key_template`."""

    text: str

    @property
    def places(self) -> frozenset[str]:
        return frozenset(_PLACE.findall(self.text))

    def key(self, values: Mapping[str, str]) -> str:
        """The key with every place filled in, each value as a path that no store normalises away."""
        return _PLACE.sub(lambda place: path_of_key(values[place[1]]), self.text)

    def prefix(self, bucket: str) -> str:
        """What all keys begin with that come of objects in `bucket`."""
        return self.text.replace("{bucket}", bucket).partition("{")[0]


def key_template(text: str, allowed: Iterable[str], required: Iterable[str] = ()) -> KeyTemplate:
    """Raises ValueError that names the place which is unknown or missing, or the text that no key should hold."""
    template = KeyTemplate(text)
    known = ", ".join(f"{{{name}}}" for name in allowed)
    unknown = sorted(template.places - set(allowed))
    if unknown:
        raise ValueError(f"expected no other places than {known}, seen {{{unknown[0]}}}")
    missing = [name for name in required if name not in template.places]
    if missing:
        raise ValueError(f"expected {{{missing[0]}}} in it, so that each output has a key of its own, seen {text!r}")
    plain = _PLACE.sub("", text)
    if not _PLAIN.fullmatch(plain):
        raise ValueError(f"expected places ({known}) and plain characters around them, seen {text!r}")
    filled = _PLACE.sub("x", text)
    if filled.startswith("/") or any(segment in ("", ".", "..") for segment in filled.rstrip("/").split("/")):
        raise ValueError(f"expected a key without empty segments, '.' and '..', seen {text!r}")
    return template
