"""The demo, as a newcomer runs it: from nothing to the end of the story."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.constants import PACKET_MAX_BYTES, ROLES
from common.constellation import parts as bundle_parts
from services.cli.demo import OF_THE_NEW_DOMAIN
from services.edge.slots import Slots

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 840  # three minutes on a machine of its own; tests share theirs


def test_the_demo_keeps_its_promises(tmp_path):
    command = [sys.executable, "-m", "services.cli.app", "demo", "--json", "--home", str(tmp_path / "home")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QIG_")}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    story = json.loads(done.stdout.splitlines()[-1])
    assert story["bpb_after"] <= 0.95 * story["bpb_before"]
    assert story["old_domains_worst_change"] <= 0.01
    assert 0 < story["packet_bytes_max"] <= PACKET_MAX_BYTES
    assert story["queries_lost"] == 0
    assert story["bundle_version"] > 1
    assert nearest(tmp_path / "home", OF_THE_NEW_DOMAIN) not in ROLES  # what it says to try next


def nearest(home, text):
    """The domain that an edge of this home answers a text with."""
    constellation = bundle_parts.load(Slots(home / "nodes/edge-1/edges/edge-1/bundles").load().parts)
    return constellation.route(constellation.basin(constellation.encoder.encode(text))).steps[0].name
