"""The settings of the sources that others post to."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from whimbrel.eventing.settings import DeliverySettings


class PushSourceSettings(DeliverySettings):
    """Receives S3 notifications and CloudEvents over HTTP; answers 2xx only when the sink has accepted them."""

    push_answer_seconds: float = Field(
        default=8, gt=0, le=3600, description="longest wait before a 503, below what the poster waits (RGW: 10)"
    )
    push_max_body_bytes: int = Field(default=1 << 20, ge=1024, le=64 << 20, description="largest request body")
    push_max_requests: int = Field(
        default=2048, ge=1, le=100_000, description="requests at once; more are answered 503 without being read"
    )
    push_buffer_bytes: int = Field(
        default=64 << 20, ge=1024, le=8 << 30, description="bodies held at once, those of requests answered 503 too"
    )
    push_remembered: int = Field(
        default=10_000, ge=1, le=10_000_000, description="outcomes remembered for requests that come again"
    )
    push_remember_seconds: float = Field(default=600, gt=0, le=86400, description="how long an outcome is remembered")
    push_user: str | None = Field(default=None, min_length=1, description="user of basic authentication")
    push_password: SecretStr | None = Field(default=None, description="its password; better in a file")
    push_password_file: Path | None = Field(default=None, description="file with the password")
    push_token: SecretStr | None = Field(default=None, description="bearer token; better in a file")
    push_token_file: Path | None = Field(default=None, description="file with the bearer token")

    @model_validator(mode="after")
    def _secrets_are_whole(self) -> PushSourceSettings:
        for name in ("password", "token"):
            if getattr(self, f"push_{name}") and getattr(self, f"push_{name}_file"):
                raise ValueError(f"expected one of WHIMBREL_PUSH_{name.upper()} and its _FILE, seen both")
        if bool(self.push_user) != bool(self.push_password or self.push_password_file):
            raise ValueError("expected WHIMBREL_PUSH_USER with its password, or neither; seen one of them")
        return self
