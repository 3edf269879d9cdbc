"""Settings: one class a component, read from the environment and the command line under the same names.

A field `s3_endpoint` is WHIMBREL_S3_ENDPOINT in the environment and `--s3-endpoint` (or `--s3_endpoint`, as KServe
writes its arguments) on the command line, which wins. A wrong or missing setting ends the start with one line each.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from whimbrel.core.errors import SettingsError
from whimbrel.core.logs import redact

ENVIRONMENT_PREFIX = "WHIMBREL_"

HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Port = Annotated[int, Field(ge=0, le=65535)]
BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")]


class ComponentSettings(BaseSettings):
    """What every component has. Frozen: a setting is read once, at the start."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        frozen=True,
        populate_by_name=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="least level logged")


class S3Settings(ComponentSettings):
    """How to reach the object store. Credentials come from botocore's own chain (AWS_ACCESS_KEY_ID and so on)."""

    s3_endpoint: HttpUrl | None = Field(default=None, description="URL of the store; absent: AWS itself")
    s3_region: str = Field(default="us-east-1", min_length=1, description="region that requests are signed for")
    s3_path_style: bool = Field(default=True, description="http://host/bucket/key, not http://bucket.host/key")
    s3_verify_tls: bool = Field(default=True, description="verify the store's certificate")
    s3_ca_bundle: str | None = Field(default=None, description="file with the certificates to trust")
    s3_connect_timeout_seconds: Seconds = Field(default=5.0, description="longest wait for a connection")
    s3_read_timeout_seconds: Seconds = Field(default=10.0, description="longest wait between two reads")
    s3_max_attempts: int = Field(default=3, ge=1, le=20, description="attempts of one S3 request, the first included")


class ServerSettings(ComponentSettings):
    """Where a server listens. Port 0 is any free one."""

    http_host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 inside a container")
    http_port: Port = Field(
        default=8080,
        validation_alias=AliasChoices("WHIMBREL_HTTP_PORT", "PORT"),  # PORT is what Knative sets
        description="port for HTTP; also PORT, as Knative sets it",
    )


CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Repeated:
    """Marks a field that its option gives once for each entry, and its variable one to a line (with `NoDecode`)."""


def split_commas(value: Any) -> Any:
    """A validator (mode before) for `CommaSeparated` fields."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def split_lines(value: Any) -> Any:
    """A validator (mode before) for fields that are `Repeated`."""
    if isinstance(value, str):
        return tuple(line.strip() for line in value.splitlines() if line.strip())
    return value


Settings = TypeVar("Settings", bound=ComponentSettings)


def load(settings_class: type[Settings], arguments: Sequence[str], *, program: str) -> Settings:
    """Read the settings of one component from its arguments and the environment.

    `--help` prints every setting with its default and exits. Raises SettingsError with one line for each setting
    that is wrong or missing; an argument that no setting has is an error too.
    """
    given = _parse_arguments(settings_class, arguments, program)
    try:
        return settings_class(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_line(settings_class, fault, given) for fault in error.errors())) from None


def environment_name(field: str) -> str:
    return ENVIRONMENT_PREFIX + field.upper()


def option_name(field: str) -> str:
    return "--" + field.replace("_", "-")


def _parse_arguments(settings_class: type[ComponentSettings], arguments: Sequence[str], program: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog=program,
        description=(settings_class.__doc__ or "").strip().splitlines()[0],
        allow_abbrev=False,
        exit_on_error=False,
    )
    for name, field in settings_class.model_fields.items():
        default = "required" if field.is_required() else f"default: {field.default}"
        spellings = list(dict.fromkeys([option_name(name), "--" + name]))
        repeated = any(isinstance(each, Repeated) for each in field.metadata)
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        parser.add_argument(
            *spellings,
            **({"action": "append"} if repeated else alone),  # `--timing` is `--timing true`
            dest=name,
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=_help(name, field.description or "", default, repeated=repeated).replace("%", "%%"),
        )
    try:
        parsed, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise SettingsError(f"{program}: {error}; see '{program} --help'") from None
    if unknown:
        raise SettingsError(f"expected a setting of {program}, seen {unknown[0]!r}; see '{program} --help'")
    return vars(parsed)


def _help(name: str, description: str, default: str, *, repeated: bool) -> str:
    if repeated:
        return f"{description} (again for each; {environment_name(name)}, one to a line)"
    return f"{description} ({default}; {environment_name(name)})"


def _line(settings_class: type[ComponentSettings], fault: Any, given: dict[str, Any]) -> str:
    if not fault["loc"]:
        return redact(f"settings: {fault['msg'].removeprefix('Value error, ')}")
    field, variable = _named(settings_class, str(fault["loc"][0]))
    name = f"setting {variable} ({option_name(field)})"
    described = settings_class.model_fields[field].description if field in settings_class.model_fields else None
    meaning = f" ({described})" if described else ""
    if fault["type"] == "missing":
        return f"{name}: missing{meaning}; set it"
    seen = given[field] if field in given else _environment_value(variable)
    allowed = fault["msg"].removeprefix("Value error, ")
    return redact(f"{name}: {allowed[:1].lower()}{allowed[1:]}, seen {seen!r}{meaning}")


def _named(settings_class: type[ComponentSettings], location: str) -> tuple[str, str]:
    """The field and the environment variable that pydantic's `location` means, which may be an alias of the field."""
    for name, field in settings_class.model_fields.items():
        alias = field.validation_alias
        choices = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
        if location == name or location.lower() in [choice.lower() for choice in choices]:
            read = [choice for choice in choices if _environment_value(choice)]
            return name, read[0] if read else choices[0] if choices else environment_name(name)
    return location, environment_name(location)


def _environment_value(variable: str) -> str:
    by_lower = {name.lower(): value for name, value in os.environ.items()}
    return by_lower.get(variable.lower(), "")
