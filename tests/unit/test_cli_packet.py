import json

import numpy as np
import pytest
from micro import MICRO

from common.constellation.priors import prior_of
from common.coordizer.artifacts import token_bytes
from common.coordizer.growth import propose
from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import keys
from common.wire import crystals, packet_vectors
from common.wire.bundle import part_of, sign
from common.wire.codec import pack
from common.wire.mentions import NO_HASHES, PACKET_MAX_MENTIONS, decode, mentions
from common.wire.messages import Candidate, Evidence
from common.wire.ngrams import implied
from common.wire.packet import base_prefix, open_envelope, seal
from services.cli import packet
from services.edge.answer import Interaction
from services.edge.mentions import Private, decoys
from services.edge.proposals import Growing
from services.edge.record import Packet, Record, read_packets
from services.edge.sleep import fold
from services.edge.slots import Slots

NEW = 'The king spake unto the people,\nand the people answered the "king". '


@pytest.fixture
def sleep(micro, tmp_path):
    """Makes the next packet of an edge: folded, and sent when asked; returns its bytes."""

    def do(node="edge-1", *, sent=True, record=None, within=".", **telling):
        own = record or Record(tmp_path / within / "edges" / node / "edge.db", now_s=7.0)
        basin = micro.basin(micro.encoder.encode(NEW))
        read = Interaction("q", "c", NEW, 1.0, "heart", basin, 20, len(NEW), 9.0, 12.0, "FOAM")
        done = fold(micro, "heart", [read] * 4, own.balance("heart"), crystal_bytes=300, phi={}, **telling)
        terms = {"base_version": 3, "base": base_prefix("ab" * 32)}
        made = Packet(
            own.sequence, "heart", "pending", 2.0, *terms.values(), done.body.basin, pack(done.body), done.carried
        )
        own.slept({}, done.balance, made)
        raw = seal(
            done.body, signing_key=packet_vectors.KEY, epoch=own.epoch, sequence=made.sequence, at_s=3.0, **terms
        )
        if sent:
            own.leaving(made.sequence, raw)
            own.sent(made.sequence, raw, at_s=3.0)
        if record is None:
            own.close()
        return raw

    return do


@pytest.fixture
def genesis(micro_parts, tmp_path):
    """A constellation in a directory, for token texts."""
    for path, data in micro_parts.items():
        (tmp_path / "genesis" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "genesis" / path).write_bytes(data)
    return tmp_path / "genesis"


@pytest.fixture
def show(tmp_path, genesis, capsys):
    """What `qig packet show --json` says, an object a packet."""

    def do(which, node=None, home=tmp_path):
        assert packet.show(packet=str(which), node=node, genesis=genesis, home=home, json=True) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return do


def listed(home, capsys, node=None):
    packet.listing(node=node, home=home, json=True)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_packets_of_every_edge_are_listed_with_what_became_of_them(sleep, tmp_path, capsys):
    raws = [sleep(), sleep(sent=False), sleep("edge-2", within="nodes/edge-2")]
    rows = listed(tmp_path, capsys)
    assert [(row["node"], row["sequence"], row["status"]) for row in rows] == [
        ("edge-1", 0, "sent"), ("edge-1", 1, "pending"), ("edge-2", 0, "sent"),
    ]  # fmt: skip
    assert [row["size_bytes"] for row in rows] == [len(raws[0]), None, len(raws[2])]
    assert [row["node"] for row in listed(tmp_path, capsys, "edge-2")] == ["edge-2"]


def test_every_n_gram_that_left_is_shown_as_text_with_its_count(sleep, show, micro):
    raw = sleep()
    (told,) = show(0)
    prior = prior_of([micro.memories["heart"]], MICRO.vocab)
    found = implied(crystals.decode(open_body(raw).crystals, MICRO.vocab, 4096, prior=prior))
    assert len(told["ngrams"]) == found.entries > 10
    assert sorted(each["count"] for each in told["ngrams"]) == sorted(np.concatenate([o.counts for o in found.orders]))
    for each in told["ngrams"]:
        assert each["text"] == micro.encoder.decode(np.array(each["tokens"], np.int32)).decode()
        assert each["text"] in NEW * 4


def open_body(raw):
    return packet.verify(open_envelope(raw), packet_vectors.KEY.verify_key)


def test_the_sections_add_up_to_what_left(sleep, show):
    raw = sleep()
    (told,) = show(0)
    assert sum(told["sections"].values()) == told["size_bytes"] == len(raw)
    assert told["sections"]["signature"] == 64
    assert told["body"]["tokens"] == open_body(raw).tokens
    assert told["envelope"]["epoch"] == 7


def test_what_a_packet_mentions_is_told_as_text_to_who_has_the_secret(sleep, show, genesis, tmp_path, capsys, micro):
    keys.init(tmp_path, ["edge-1"])
    secret = keys.load_secret(keys.make_secret(tmp_path))
    made_up = decoys(bytes(keys.load_private(tmp_path, "edge-1")), [0])
    raw = sleep(private=Private(secret, NO_HASHES, NO_HASHES, strict=True, decoys=made_up))
    hashes = decode(open_body(raw).mentions, PACKET_MAX_MENTIONS).tolist()
    (told,) = show(0)
    assert [each["hash"] for each in told["mentions"]] == hashes
    assert {each["hash"] for each in told["mentions"] if each["made_up"]} == set(made_up.tolist())
    texts = {each["text"] for each in told["mentions"] if not each["made_up"]}
    assert len(texts) > 10
    assert all(text in NEW for text in texts)
    assert (told["ngrams"], sum(told["sections"].values())) == ([], len(raw))
    assert [row["mentions"] for row in listed(tmp_path, capsys)] == [len(hashes)]
    packet.show(packet="0", node=None, genesis=genesis, home=tmp_path, json=False)
    said = capsys.readouterr().out
    assert f"{len(hashes)} hashes mentioned, 8 of them made up" in said
    assert '"k"' in said


def test_the_merges_that_a_packet_says_and_mentions_are_told_as_text(sleep, show, genesis, tmp_path, capsys, micro):
    keys.init(tmp_path, ["edge-1"])
    secret = keys.load_secret(keys.make_secret(tmp_path))
    tokens = token_bytes(micro.coordizer.merges)
    found = propose(micro.coordizer, [NEW] * 4)
    wanted, by_ids = ([(tokens[a], tokens[b]) for a, b, _ in some] for some in (found, sorted(found[:3])))
    raw = sleep(growing=Growing(secret, mentions(secret, "merge", wanted[:3]), NO_HASHES))
    (told,) = show(0)
    assert [each["text"].encode() for each in told["merges"]] == [a + b for a, b in by_ids]
    assert {each["text"].encode() for each in told["mentions"]} <= {a + b for a, b in wanted[3:]}
    assert sum(told["sections"].values()) == len(raw)
    packet.show(packet="0", node=None, genesis=genesis, home=tmp_path, json=False)
    assert "3 merges proposed as tokens" in capsys.readouterr().out


def test_without_the_secret_a_hash_is_a_hash(sleep, show):
    raw = sleep(private=Private(bytes(32), NO_HASHES, NO_HASHES, strict=True))
    (told,) = show(0)
    assert {each["text"] for each in told["mentions"]} == {None}
    assert len(told["mentions"]) == len(decode(open_body(raw).mentions, PACKET_MAX_MENTIONS))


def test_a_packet_that_was_never_sealed_says_so(sleep, genesis, tmp_path, capsys):
    sleep(sent=False)
    packet.show(packet="0", node=None, genesis=genesis, home=tmp_path, json=False)
    assert "has certainly not left" in capsys.readouterr().out


def test_a_packet_that_was_being_sent_may_have_left(sleep, genesis, tmp_path, capsys):
    record = Record(tmp_path / "edges" / "edge-1" / "edge.db", now_s=7.0)
    raw = sleep(sent=False, record=record)
    record.leaving(0, raw)
    record.close()
    packet.show(packet="0", node=None, genesis=genesis, home=tmp_path, json=False)
    assert "may have left" in capsys.readouterr().out


def test_a_running_edge_s_packets_are_read_while_it_holds_its_file(sleep, show, tmp_path):
    record = Record(tmp_path / "edges" / "edge-1" / "edge.db", now_s=7.0)
    sleep(record=record)
    (told,) = show(0)
    sleep(record=record, sent=False)
    assert told["status"] == "sent"
    assert [each.sequence for each in read_packets(tmp_path / "edges" / "edge-1" / "edge.db")[1]] == [0, 1]
    record.close()


def test_looking_changes_no_byte_of_a_stopped_edge_s_file(sleep, show, tmp_path):
    sleep()
    file = tmp_path / "edges" / "edge-1" / "edge.db"
    before = file.read_bytes()
    show(0)
    assert file.read_bytes() == before


def test_for_a_person_blanks_and_line_ends_can_be_seen(sleep, genesis, tmp_path, capsys):
    sleep()
    packet.show(packet="0", node="edge-1", genesis=genesis, home=tmp_path, json=False)
    packet.listing(node=None, home=tmp_path, json=False)
    told = capsys.readouterr().out
    assert "packet 0 of edge-1: sent" in told
    assert "crystals" in told
    assert '",\\n' in told or "\\n" in told
    assert "n-grams" in told.splitlines()[-2]


def install(parts, folder):
    """An edge's bundle of these parts."""
    slots, named = Slots(folder), {}
    for path, data in parts.items():
        named[path] = part_of(data)
        slots.put(named[path], data)
    candidate = Candidate(id="c", parent=0, parent_digest="", parts=named, evidence=Evidence())
    slots.activate(sign(candidate, version=1, released_at_s=1.0, signing_key=packet_vectors.KEY))


def test_the_edge_s_own_bundle_spells_its_tokens_before_any_genesis(sleep, micro_parts, tmp_path, capsys):
    sleep()
    install(micro_parts, tmp_path / "edges" / "edge-1" / "bundles")
    packet.show(packet="0", node=None, genesis=tmp_path / "none", home=tmp_path, json=True)
    assert "king" in capsys.readouterr().out


def test_a_file_is_read_once_its_signer_is_known(sleep, show, tmp_path):
    (tmp_path / "packet").write_bytes(sleep())
    with pytest.raises(Rejected, match="unknown_key"):
        show(tmp_path / "packet")
    keys.edges_dir(tmp_path).mkdir(parents=True)
    (keys.edges_dir(tmp_path) / "kiosk.pub").write_text(bytes(packet_vectors.KEY.verify_key).hex())
    (told,) = show(tmp_path / "packet")
    assert (told["node"], told["status"]) == ("kiosk", "file")
    assert told["ngrams"] == show(0)[0]["ngrams"]


def test_a_file_is_read_with_the_bundle_of_any_edge_or_the_genesis_and_refused_without(
    sleep, show, genesis, micro_parts, tmp_path
):
    keys.edges_dir(tmp_path).mkdir(parents=True)
    (keys.edges_dir(tmp_path) / "kiosk.pub").write_text(bytes(packet_vectors.KEY.verify_key).hex())
    (tmp_path / "packet").write_bytes(sleep())
    (told,) = show(tmp_path / "packet")
    (genesis / "memories" / "heart.bin").unlink()
    with pytest.raises(Rejected, match=r"unknown_base.*told by what bundle 3 \(abab.*--genesis"):
        show(tmp_path / "packet")
    install(micro_parts, tmp_path / "edges" / "edge-1" / "bundles")
    assert show(tmp_path / "packet") == [told]


def test_a_forged_file_is_corrupt_and_a_missing_one_is_said(sleep, show, tmp_path):
    keys.edges_dir(tmp_path).mkdir(parents=True)
    (keys.edges_dir(tmp_path) / "kiosk.pub").write_text(bytes(packet_vectors.KEY.verify_key).hex())
    raw = bytearray(sleep())
    raw[-1] ^= 1
    (tmp_path / "packet").write_bytes(raw)
    with pytest.raises(Corrupt, match="bad_signature"):
        show(tmp_path / "packet")
    with pytest.raises(Unavailable, match="no_file"):
        show(tmp_path / "nothing")


@pytest.mark.parametrize("data", [b"", b"no packet"])
def test_a_file_that_is_no_packet_is_named(show, tmp_path, data):
    (tmp_path / "packet").write_bytes(data)
    with pytest.raises(Rejected, match=f"{tmp_path}/packet holds no whole packet: Envelope"):
        show(tmp_path / "packet")


def test_a_token_that_no_coordizer_here_knows_is_shown_by_its_number(show, tmp_path):
    keys.edges_dir(tmp_path).mkdir(parents=True)
    (keys.edges_dir(tmp_path) / "kiosk.pub").write_text(bytes(packet_vectors.KEY.verify_key).hex())
    (tmp_path / "packet").write_bytes(packet_vectors.cases()["golden"].raw)
    (told,) = show(tmp_path / "packet")
    assert "<2047>" in {each["text"][-6:] for each in told["ngrams"]}


def test_a_sequence_that_nobody_made_and_a_file_that_is_no_edge_s_are_said(sleep, show, tmp_path):
    sleep()
    with pytest.raises(Rejected, match=r"no_packet.*no packet 9 \(there: edge-1 0\)"):
        show(9)
    (tmp_path / "edges" / "edge-1" / "edge.db").write_bytes(b"no database at all, but longer than a header")
    with pytest.raises(Corrupt, match="not_a_record"):
        show(0)
