"""What `whimbrel init` writes: a function file with every section, and the JSON schema for editors."""

from __future__ import annotations

import json

from pydantic import TypeAdapter

from whimbrel.core.errors import InputRefused
from whimbrel.kube.function.model import SCHEMA, Function, Name

SCHEMA_FILE = "whimbrel.schema.json"

_TEMPLATE = """\
# yaml-language-server: $schema={schema_file}
# Put an image in the bucket, get its labels back.
#   whimbrel render -f whimbrel.yaml   shows the Kubernetes objects of it
#   whimbrel apply -f whimbrel.yaml    makes them, on a cluster or on the engine of 'whimbrel up'
#   whimbrel delete -f whimbrel.yaml   removes them; the buckets stay as they are
schema: {schema}
name: {name}

input:
  bucket: photos # images that are put here are classified ...
  # prefix: incoming/ # ... if their key begins so
  # suffixes: [.jpg, .png] # ... and ends so
  source: # how the bucket's notifications come
    kind: sqs # or rgw-pubsub, amqp, kafka, rgw-push, s3-push
    queue: {name}

output:
  bucket: results # one JSON for each image
  dead_letters: dead-letters # what was refused or given up, with the reason

# The registry's model, at the version that the alias names: move the alias and apply again. Or a package by its digest:
# model: {{uri: s3://models/{name}/v1, digest: sha256:...}}
model: models:/{name}@champion
task: classification

# resources: {{cpu: 2, memory: 3Gi}} # of the predictor
# gpu: 1
scale: # of the predictor; min: 0 means none while no image comes
  min: 0
  max: 4
# transformer: # fetches and decodes
#   resources: {{cpu: 1, memory: 1536Mi}}
#   scale: {{min: 0, max: 8}}

# labels: {{team: birds}}
# environment: {{WHIMBREL_TOP_K: "3"}}
# secrets: # environment variables from Secrets that are there already
#   MLFLOW_TRACKING_TOKEN: {{secret: mlflow, key: token}}
# settings: whimbrel-settings # ConfigMap: addresses of the store, the queue and the registry
# credentials: whimbrel-s3 # Secret: the store's credentials
# images: {{registry: registry.example.com/team, tag: "0.1.0"}}
"""


def template(name: str) -> str:
    """A commented function file for `name`. Raises InputRefused for a name that is none."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValueError:
        raise InputRefused(
            f"expected a name of at most 40 lower-case letters, digits and '-', a letter first, seen {name!r}"
        ) from None
    return _TEMPLATE.format(schema=SCHEMA, schema_file=SCHEMA_FILE, name=name)


def json_schema() -> str:
    """For editors: what is known, required and allowed, each with its description. The reader knows more."""
    schema = Function.model_json_schema(by_alias=True, mode="validation")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "whimbrel function file"}
    return json.dumps(schema, indent=2) + "\n"
