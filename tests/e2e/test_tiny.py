"""Size tiny, from text to the last gate: trained anew and validated, as anybody can do on a laptop."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).resolve().parents[2]
CPU_SECONDS = 70  # processor seconds, so that what runs beside it does not count; 53 on a busy machine


def qig(*line):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QIG_")}
    command = [sys.executable, "-m", "services.cli.app", *line]
    return subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A genesis of size tiny from the committed text, and the processor seconds it took."""
    out = tmp_path_factory.mktemp("tiny") / "genesis"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = qig("train", "--size", "tiny", "--out", str(out))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-4000:]
    return out, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_size_tiny_trains_within_seventy_processor_seconds(trained):
    assert trained[1] < CPU_SECONDS


def test_every_gate_of_a_fresh_tiny_genesis_holds(trained):
    done = qig("validate", "--json", "--genesis", str(trained[0]))
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    failed = [check for check in checks if check["ok"] is False]
    assert not failed, failed
    assert {check["gate"] for check in checks if check["ok"]} >= {"coordizer", "kernels", "constellation"}
    assert done.returncode == 0, done.stderr[-4000:]


def test_training_leaves_its_curves_and_no_checkpoint(trained):
    kept = sorted(path.name for path in trained[0].with_name("genesis-run").iterdir() if path.is_file())
    curves = [f"{name}.jsonl" for name in ("heart", "integrator", "percept", "seed", "strategy", "vocab")]
    assert kept == sorted(["curves.png", *curves])
