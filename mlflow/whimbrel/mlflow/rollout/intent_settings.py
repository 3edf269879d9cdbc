"""The settings of what starts rollouts: the templates, the poll of the aliases, and the receiver of webhooks."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from whimbrel.core.errors import SettingsError
from whimbrel.core.settings import Port, S3Settings


class IntentSettings(S3Settings):
    """Without `rollout_templates` no alias is followed."""

    mlflow_tracking_uri: str | None = Field(default=None, description="registry whose aliases are followed and follow")
    rollout_templates: Path | None = Field(
        default=None, description="YAML file with the rollout that a moved challenger starts, by model"
    )
    alias_poll_seconds: float = Field(default=15.0, gt=0, le=3600, description="between two looks at the aliases")
    webhook_host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 inside a container")
    webhook_port: Port | None = Field(default=None, description="port for the registry's webhooks; absent: none")
    webhook_secret: SecretStr | None = Field(default=None, description="they are signed with; better in a file")
    webhook_secret_file: Path | None = Field(default=None, description="file with that secret")

    @model_validator(mode="after")
    def _whole(self) -> IntentSettings:
        if self.rollout_templates is not None and not self.mlflow_tracking_uri:
            raise ValueError("expected WHIMBREL_MLFLOW_TRACKING_URI with WHIMBREL_ROLLOUT_TEMPLATES, seen none")
        if self.webhook_secret and self.webhook_secret_file:
            raise ValueError("expected one of WHIMBREL_WEBHOOK_SECRET and its _FILE, seen both")
        if self.webhook_port is not None and not (self.webhook_secret or self.webhook_secret_file):
            raise ValueError("expected WHIMBREL_WEBHOOK_SECRET_FILE with WHIMBREL_WEBHOOK_PORT, seen none")
        if self.webhook_port is not None and self.rollout_templates is None:
            raise ValueError("expected WHIMBREL_ROLLOUT_TEMPLATES with WHIMBREL_WEBHOOK_PORT, seen none")
        return self

    def secret_of_webhooks(self) -> str:
        """Without white space around it, wherever it comes from. Raises SettingsError when there is none."""
        if self.webhook_secret_file is None:
            secret = self.webhook_secret.get_secret_value().strip() if self.webhook_secret else ""
            if not secret:
                raise SettingsError("setting WHIMBREL_WEBHOOK_SECRET: expected a secret, seen none")
            return secret
        return read_secret(self.webhook_secret_file, "setting WHIMBREL_WEBHOOK_SECRET_FILE")


def read_secret(file: Path, what: str) -> str:
    """The first 4 KiB of `file`, without white space around it. Raises SettingsError, which begins with `what`."""
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{what}: cannot read {file} ({error})") from None
    if not text:
        raise SettingsError(f"{what}: expected a secret in {file}, seen an empty file")
    return text
