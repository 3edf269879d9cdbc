"""The settings of the outputs sink: which outputs, where each goes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from whimbrel.core.key_template import KeyTemplate, key_template
from whimbrel.core.settings import BucketName, CommaSeparated, Seconds, ServerSettings, split_commas
from whimbrel.transformers.image_settings import MEBI, ImageSettings

IMAGE, COCO, ZIP = "image", "coco", "zip"
KINDS = (IMAGE, COCO, ZIP)
EXTENSION = "extension"
PLACES = ("bucket", "key", "version", "digest", "model", "model_version", EXTENSION)


class OutputsSettings(ImageSettings, ServerSettings):
    """Writes annotated pictures, boxes as COCO JSON, or zips of both, for the prediction events that it gets."""

    outputs: CommaSeparated = Field(default=(IMAGE,), description=f"one or more of {', '.join(KINDS)}")
    outputs_bucket: BucketName = Field(description="bucket that outputs are written to")
    outputs_key: str = Field(
        default="{bucket}/{key}.{extension}",
        validate_default=True,
        description="template of the keys; places: " + ", ".join(f"{{{name}}}" for name in PLACES),
    )
    outputs_image_format: Literal["jpeg", "png"] = Field(default="jpeg", description="format of the annotated picture")
    decode_budget: int = Field(
        default=960 * MEBI,  # 16 bytes a pixel in its own size, and what a progressive JPEG takes
        ge=16 * MEBI,
        le=2**40,
        description="bytes of memory that decoding and drawing may hold at once",
    )
    draw_threads: int = Field(default=2, ge=1, le=64, description="pictures drawn and written at the same time")
    max_body_bytes: int = Field(default=4 << 20, ge=1024, le=64 << 20, description="largest request body")
    wait_seconds: Seconds = Field(default=20.0, description="longest wait for memory before a 503")
    startup_wait_seconds: Seconds = Field(default=300, description="longest wait for the store at the start")
    grace_seconds: Seconds = Field(default=20, description="longest wait for what was accepted after SIGTERM")

    @field_validator("outputs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_commas(value)

    @field_validator("outputs")
    @classmethod
    def _kinds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= set(KINDS):
            raise ValueError(f"expected one or more of {', '.join(KINDS)}")
        return tuple(dict.fromkeys(value))

    @field_validator("outputs_key")
    @classmethod
    def _template(cls, value: str, info: ValidationInfo) -> str:
        several = len(info.data.get("outputs", ())) > 1
        return key_template(value, PLACES, ("key", EXTENSION) if several else ("key",)).text

    @property
    def template(self) -> KeyTemplate:
        return KeyTemplate(self.outputs_key)

    def extension(self, kind: str) -> str:
        image = "jpg" if self.outputs_image_format == "jpeg" else "png"
        return {IMAGE: image, COCO: "coco.json", ZIP: "zip"}[kind]
