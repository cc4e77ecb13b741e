"""RunPod's own program around our worker, on this machine: one input, or its API behind a port.

It needs the extra `runpod`, which brings some sixty packages: where this Python has it not, RUNPOD_PYTHON may name one
that has, beside all that the trainer needs.
"""

import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

PYTHON = os.environ.get("RUNPOD_PYTHON", sys.executable)
HANDLER = ".runpod/handler.py"
STARTED_S = 120.0
LOOK_S = 0.1


@functools.cache
def missing():
    """Why it cannot be run here; empty where it can."""
    done = subprocess.run([PYTHON, "-c", "import runpod"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    reason = (done.stderr.strip().splitlines() or [""])[-1]
    return f"{PYTHON} has no runpod ({reason}): pip install '.[runpod]', or name a Python by RUNPOD_PYTHON"


def needed():
    """Skips a test, and says why."""
    if done := missing():
        pytest.skip(done)


def environment(data, volume):
    """What a worker is given there, and nothing of a fleet; what decides how this processor adds is as it is here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QIG_")}
    return kept | {"QIG_DATA": str(data), "QIG_RUNPOD_VOLUME": str(volume), "PYTHONPATH": str(Path.cwd())}


def answer(given, data, volume):
    """The program with --test_input; its exit code and all that it says."""
    command = [PYTHON, HANDLER, "--test_input", given]
    done = subprocess.run(command, env=environment(data, volume), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@contextlib.contextmanager
def api(data, volume):
    """The program with --rp_serve_api; its base URL, until the end of the block."""
    port = free_port()
    command = [PYTHON, HANDLER, "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    url, log = f"http://127.0.0.1:{port}", volume / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment(data, volume), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + STARTED_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(LOOK_S)
        yield url
    finally:
        process.terminate()
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as page:
            return page.status == 200
    except OSError:
        return False
