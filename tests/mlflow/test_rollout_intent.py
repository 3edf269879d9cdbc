"""What a moved challenger leads to, which webhook is believed, which template is taken; without servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from whimbrel.core.errors import InputRefused, PayloadTooLarge, SettingsError
from whimbrel.core.model_pointer import PointedVersion
from whimbrel.core.settings import load
from whimbrel.mlflow.rollout.challengers import follow
from whimbrel.mlflow.rollout.controller import RolloutSettings
from whimbrel.mlflow.rollout.intent import Existing, Start, Supersede, Wait, next_step
from whimbrel.mlflow.rollout.resource import Spec, new, parse, rollout_name
from whimbrel.mlflow.rollout.templates import parse_templates
from whimbrel.mlflow.rollout.webhook import MovedAlias, NotSigned, ReceivedBefore, Verification, signature

NOW, SECRET = 1_800_000_000.0, "a secret of the tests"
MOVED = {"entity": "model_version_alias", "action": "created", "timestamp": "2027-01-15T08:00:00+00:00"}
DATA = {"name": "digits", "alias": "challenger", "version": "2"}
FIELDS = """
inferenceService: digits
pointer: s3://models/digits/pointer.json
knownObjects: s3://models/digits/known.jsonl
evidence: s3://models/digits/rollouts
"""


def version(number: int, digest: str = "") -> PointedVersion:
    return PointedVersion(version=str(number), uri=f"s3://models/{number}", digest=f"sha256:{digest or number:0>64}")


def existing(
    number: int, phase: str = "Canary", *, name: str = "", by_alias: bool = True, digest: str = "", **spec: Any
) -> Existing:
    given = {
        "model": "digits",
        "inferenceService": "digits",
        "candidate": version(number, digest),
        "champion": version(1),
        "pointer": "s3://models/digits/pointer.json",
        "knownObjects": "s3://models/digits/known.jsonl",
        "evidence": "s3://models/digits/rollouts",
        **spec,
    }
    document = new("default", name or f"digits-{number}", Spec.model_validate(given))
    document["metadata"]["uid"] = "1234"
    return Existing(parse(document | {"status": {"phase": phase}}), by_alias)


@pytest.mark.parametrize(
    ("rollouts", "expected"),
    [
        ([], Start("digits-3")),
        ([existing(3)], None),
        ([existing(3, "RolledBack")], None),  # it had its turn, and has no other by itself
        ([existing(3, "Promoted", name="by-hand", by_alias=False)], None),
        ([existing(2, "RolledBack"), existing(4, "Promoted")], Start("digits-3")),
        ([existing(2)], Supersede("digits-2")),
        ([existing(2, paused=True)], Supersede("digits-2")),
        ([existing(3, "Pending"), existing(2)], Supersede("digits-2")),  # two controllers that saw different times
        ([existing(2, by_alias=False)], Wait("digits-2")),
        ([existing(2, "Promoting")], Wait("digits-2")),
        ([existing(2, "RollingBack", decision="Supersede")], Wait("digits-2")),
        ([existing(2, decision="Promote")], Wait("digits-2")),
        ([existing(3, "RolledBack", decision="Supersede")], Start("digits-3-2")),  # it was not judged
        ([existing(3, "RolledBack", digest="f")], Start("digits-3-2")),  # version 3 of a registry before this one
    ],
)
def test_what_a_challenger_leads_to(rollouts: list[Existing], expected: object) -> None:
    names = {each.rollout.name for each in rollouts}
    assert next_step("digits", version(3), rollouts, names) == expected


def test_a_rollouts_name_is_one_of_an_object_and_two_models_have_two() -> None:
    assert rollout_name("digits", "2") == "digits-2"
    odd = {rollout_name(model, "2") for model in ("Sea Birds", "sea_birds", "sea-birds", "_")}
    assert len(odd) == 4
    assert all(name.replace("-", "").isalnum() and name[0].isalnum() and name.islower() for name in odd)


def request(
    document: Any = None, *, secret: str = SECRET, sent: float = NOW, delivery: str = "d1"
) -> tuple[dict[str, str], bytes]:
    body = json.dumps(MOVED | {"data": DATA} if document is None else document).encode()
    signed = signature(secret.encode(), delivery, str(int(sent)), body)
    return (
        {"x-mlflow-signature": signed, "x-mlflow-timestamp": str(int(sent)), "x-mlflow-delivery-id": delivery},
        body,
    )


def test_a_genuine_webhook_is_believed_once() -> None:
    verification = Verification(SECRET)
    assert verification.announced(*request(), NOW) == MovedAlias("digits", "challenger", "2")
    with pytest.raises(ReceivedBefore):
        verification.announced(*request(), NOW)
    assert verification.announced(*request(delivery="d2", sent=NOW - 299), NOW) is not None
    assert verification.announced(*request(MOVED | {"entity": "prompt_alias"}, delivery="d3"), NOW) is None


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"x-mlflow-signature": "v1,bm90IHRoaXM="}, NotSigned),
        ({"x-mlflow-signature": "v1,\u00e9"}, NotSigned),
        ({"x-mlflow-signature": ""}, NotSigned),
        ({"x-mlflow-delivery-id": "another"}, NotSigned),
        ({"x-mlflow-timestamp": str(int(NOW) + 1)}, NotSigned),
        ({"x-mlflow-timestamp": "now"}, InputRefused),
        ({"x-mlflow-delivery-id": "d 1"}, InputRefused),
    ],
)
def test_a_forged_header_is_refused(headers: dict[str, str], error: type[InputRefused]) -> None:
    genuine, body = request()
    with pytest.raises(error):
        Verification(SECRET).announced(genuine | headers, body, NOW)


def test_another_body_secret_or_time_is_refused_and_leaves_the_delivery_to_the_genuine_one() -> None:
    verification = Verification(SECRET)
    headers, body = request()
    for wrong in ((headers, body + b" "), request(secret="another"), request(sent=NOW - 301), request(sent=NOW + 301)):
        with pytest.raises(NotSigned) as refused:
            verification.announced(*wrong, NOW)
        assert SECRET not in str(refused.value)
    with pytest.raises(InputRefused, match="expected name, alias and version"):
        verification.announced(*request(MOVED | {"data": {"name": "digits"}}), NOW)
    with pytest.raises(InputRefused, match="expected a JSON object"):
        verification.announced(*request([]), NOW)
    with pytest.raises(PayloadTooLarge):
        verification.announced(headers, bytes(70_000), NOW)
    assert verification.announced(headers, body, NOW) is not None


def test_what_is_remembered_is_bounded_in_time_and_never_let_in_again_by_that() -> None:
    verification = Verification(SECRET)
    early = request(delivery="early")
    verification.announced(*early, NOW)
    verification.announced(*request(delivery="late", sent=NOW + 700), NOW + 700)
    with pytest.raises(NotSigned):  # forgotten, and too old by then
        verification.announced(*early, NOW + 700)


def test_a_template_becomes_the_spec_of_two_versions() -> None:
    content = f"models: {{digits: {{{', '.join(FIELDS.split(chr(10))[1:-1])}, policy: {{promotion: Manual}}}}}}"
    template = parse_templates(content.encode(), "templates.yaml")["digits"]
    spec = template.spec(version(2), version(1), truth_known=True)
    assert (spec.model, spec.candidate.version, spec.champion.version) == ("digits", "2", "1")
    assert (spec.policy.promotion, template.known_objects) == ("Manual", "s3://models/digits/known.jsonl")
    assert "agreement" in template.spec(version(2), version(1), truth_known=False).policy.gates


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected one field, models, seen list"),
        ("models: {digits: 7}", "models.digits: expected the fields of a rollout, seen int"),
        ("models: {digits: {speed: fast}}", r"models.digits: .*speed: Extra inputs"),
        ("models: {digits: {pointer: s3://a/b, candidate: 2}}", "expected no candidate"),
        ("models: {digits: {policy: {steps: [{percent: 120}]}}}", "steps.0.percent"),
        ("models: {", "expected YAML in templates.yaml"),
        ("models: {digits: {evidence: 2026-13-45}}", "expected YAML in templates.yaml, seen month must be in 1..12"),
        ("models: " + "[" * 500, "expected YAML in templates.yaml"),
        ("more: {}\nmodels: {}", "expected one field, models, seen more, models"),
    ],
)
def test_a_wrong_template_is_refused_by_its_field(content: str, message: str) -> None:
    with pytest.raises(InputRefused, match=message):
        parse_templates(content.encode(), "templates.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--webhook-port=0",), "expected WHIMBREL_WEBHOOK_SECRET_FILE with WHIMBREL_WEBHOOK_PORT"),
        (("--webhook-secret=a", "--webhook-secret-file=b"), "expected one of WHIMBREL_WEBHOOK_SECRET and its _FILE"),
        (("--mlflow-tracking-uri=",), "expected WHIMBREL_MLFLOW_TRACKING_URI with WHIMBREL_ROLLOUT_TEMPLATES"),
        (("--webhook-port=0", "--webhook-secret= "), "WEBHOOK_SECRET: expected a secret, seen none"),
        (("--rollout-templates=none.yaml",), "TEMPLATES: expected rollout templates in none.yaml"),
        (("--webhook-port=0", "--webhook-secret-file=none"), "WEBHOOK_SECRET_FILE: cannot read none"),
    ],
)
def test_a_wrong_setting_ends_the_start(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """Before the cluster is asked for anything."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("models: {}\n")
    given = (f"--rollout-templates={empty}", "--mlflow-tracking-uri=http://127.0.0.1:9", *arguments)
    with pytest.raises(SettingsError, match=message):
        follow(cast("Any", None), cast("Any", None), load(RolloutSettings, given, program="rollouts"), "default")
