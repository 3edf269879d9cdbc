"""Load from hey on the running engine, by the name of the InferenceService: every request is answered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from testbed.engine import OneMachine, picture
from testbed.hey import needs_hey
from testbed.processes import environment


@needs_hey
def test_the_inference_service_answers_under_load(machine: OneMachine, tmp_path: Path) -> None:
    image, figures = tmp_path / "7.png", tmp_path / "figures.json"
    image.write_bytes(picture(7))
    command = [sys.executable, "-m", "whimbrel.cli", "loadtest", "--inference-service", "digits"]
    options = ["--image", str(image), "--requests", "200", "-c", "8", "--json", str(figures), "--fail-on", "errors>0"]
    done = subprocess.run(
        [*command, *options, "--state", str(machine.state)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    (stage,) = json.loads(figures.read_text())["stages"]
    assert (stage["sent"], stage["succeeded"], stage["errors"]) == (200, 200, 0)
