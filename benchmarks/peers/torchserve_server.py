"""TorchServe (archived by its authors): one worker, batches by the model's configuration; the pixels are the body."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peers.network import MAX_BATCH_SIZE, MAX_DELAY_SECONDS, port

MODEL = f"""
minWorkers: 1
maxWorkers: 1
batchSize: {MAX_BATCH_SIZE}
maxBatchDelay: {int(1000 * MAX_DELAY_SECONDS)}
responseTimeout: 120
"""
SERVER = """
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{second}
metrics_address=http://127.0.0.1:{third}
grpc_inference_port={fourth}
grpc_management_port={fifth}
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
default_workers_per_model=1
disable_system_metrics=true
enable_envvars_config=false
"""


def main() -> None:
    beside = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.yaml").write_text(MODEL)
        numbers = {each: os.environ[f"PEER_{each.upper()}_PORT"] for each in ("second", "third", "fourth", "fifth")}
        (folder / "server.properties").write_text(SERVER.format(port=port(), **numbers))
        archive = [
            *(str(beside / "torch-model-archiver"), "--model-name", "m", "--version", "1"),
            *("--handler", str(Path(__file__).with_name("torchserve_handler.py"))),
            *("--config-file", str(folder / "model.yaml"), "--export-path", str(folder)),
        ]
        subprocess.run(archive, check=True)
        serve = [
            *(str(beside / "torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth"),
            *("--model-store", str(folder), "--models", "m=m.mar", "--ts-config", str(folder / "server.properties")),
        ]
        # its file with a process id lies in the temporary folder, its logs where it runs
        subprocess.run(serve, check=False, cwd=folder, env=os.environ | {"TMPDIR": name})


if __name__ == "__main__":
    main()
