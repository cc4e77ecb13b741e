"""A reader in another language, written from docs/wire/packet.md alone, reads the golden packets as this code does."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from common.errors import QigError
from common.wire import crystals, mentions, packet, packet_vectors, proposals

NODE = shutil.which("node")
READER = Path(__file__).with_name("packet.mjs")
VECTORS = Path(__file__).resolve().parents[2] / "docs" / "wire" / "vectors"
TAKEN = json.loads((VECTORS / "packets.json").read_bytes())["packets"]
REFUSED = json.loads((VECTORS / "packets_refused.json").read_bytes())


@pytest.fixture(scope="module")
def told():
    """What the reader says of each vector."""
    if NODE is None:
        pytest.skip("node is not installed: the second decoder of sleep packets is NOT checked")
    done = subprocess.run([NODE, READER, VECTORS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def read(raw):
    """As the aggregator does: the envelope, the signature, the body, its crystals, its mentions, its merges."""
    body = packet.verify(packet.open_envelope(raw), packet_vectors.KEY.verify_key)
    limits = {"max_entries": crystals.PACKET_MAX_ENTRIES, "max_total": crystals.PACKET_MAX_TOTAL}
    crystals.decode(body.crystals, REFUSED["vocab_size"], **limits) if body.crystals else None
    mentions.decode(body.mentions, mentions.PACKET_MAX_MENTIONS)
    proposals.decode(body.merges, REFUSED["vocab_size"])


@pytest.mark.parametrize("name", TAKEN)
def test_a_reader_without_our_code_reads_every_field_n_gram_and_hash(told, name):
    assert told["packets"][name] == {
        part: TAKEN[name][part] for part in ("envelope", "body", "ngrams", "mentions", "merges")
    }


def test_it_refuses_what_is_to_be_refused_by_the_same_name(told):
    assert told["refused"] == [each["code"] for each in REFUSED["packets"]]


@pytest.mark.parametrize("each", REFUSED["packets"], ids=lambda each: each["what"])
def test_our_reader_refuses_them_by_that_name(each):
    with pytest.raises(QigError) as caught:
        read(bytes.fromhex(each["raw"]))
    assert caught.value.code == each["code"]


def test_every_golden_packet_is_what_it_is_called():
    sizes = {name: len(case.raw) for name, case in packet_vectors.cases().items()}
    assert max(sizes, key=sizes.get) == "largest"
    assert min(sizes, key=sizes.get) == "smallest"
    assert TAKEN["smallest"]["ngrams"] == []
    assert {len(line.split()) for line in TAKEN["golden"]["ngrams"]} == {3, 4, 5}
