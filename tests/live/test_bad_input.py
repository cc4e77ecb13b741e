"""What strangers send: each thing ends with a code and a reason, and the good messages around it are handled."""

import asyncio
import dataclasses
import itertools
import json
import sys
import time

import numpy as np
import pytest
from listing import list_releases
from live_fleet import EDGES, answered_once, live, until
from nacl.signing import SigningKey

from common.constants import CELLS
from common.runtime import keys, store, streams
from common.wire import basin, crystals, packet
from common.wire import bundle as bundles
from common.wire.codec import pack
from common.wire.messages import Applied, Candidate
from common.wire.packet import PacketBody, base_prefix, seal
from services.aggregator.app.hashes import LEDGER, SEQUENCE
from services.aggregator.replay import ReplayWindow

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(180)]

STRANGER = "edge-3"  # enrolled, and no process of ours: the tests sign with its key
EPOCH = 7
VOCAB = 320  # of the small constellation


@dataclasses.dataclass
class Sender:
    """Seals packets under the stranger's key, each with the next sequence."""

    lively: object
    sequence: object = dataclasses.field(default_factory=itertools.count)

    async def seal(self, signer=STRANGER, **change):
        at = (await self.lively.bundles())[-1]
        number = next(self.sequence)
        counted = crystals.crystals([crystals.entry((), 65 + number % 26, count=3, total=3)])
        p = np.full(CELLS, 1.0)
        p[3] = 40.0
        body = PacketBody(
            kernel="percept", domain="percept", basin=basin.to_bytes8(p / p.sum()), interactions=1, tokens=9,
            fresh_bytes=30, fresh_bits=60.0, phi=None, kappa=20.0, phases=(1, 0, 0, 0),
            crystals=crystals.encode(counted, VOCAB),
        )  # fmt: skip
        signing_key = signer if isinstance(signer, SigningKey) else keys.load_private(self.lively.home, signer)
        base = {"epoch": EPOCH, "sequence": number, "base_version": at.version, "at_s": time.time()}
        return seal(body, signing_key=signing_key, base=base_prefix(bundles.digest(at)), **(base | change))

    async def send(self, raw):
        """As anybody may: an entry of its own, whatever was sent before."""
        await self.lively.redis.xadd(streams.PACKETS, {"__data__": raw})
        return raw

    async def good(self):
        """A packet that counts; returns once it was counted."""
        raw = await self.send(await self.seal())
        await until(lambda: self.is_counted(raw), "a good packet in the replay window")
        return raw

    async def is_counted(self, raw):
        envelope = packet.open_envelope(raw)
        packed = await self.lively.redis.hget(SEQUENCE, envelope.key.hex())
        window = ReplayWindow.unpack(packed) if packed else None
        behind = window.highest - envelope.sequence if window and window.epoch == envelope.epoch else -1
        return behind >= 0 and bool(window.bitmap >> behind & 1)


@pytest.fixture(scope="module")
async def lively(micro_parts, tmp_path_factory):
    home = tmp_path_factory.mktemp("bad") / "home"
    async with live(home, micro_parts, enrolled=(*EDGES, STRANGER), batch_packets=4) as running:
        yield running


@pytest.fixture(scope="module")
def sender(lively):
    return Sender(lively)


@pytest.fixture
async def letters(lively):
    """The dead letters of a stream that came since the test began, once there are `number`."""
    old = {stream: len(await lively.letters(stream)) for stream in streams.GROUPS}

    async def new(stream, number=1):
        async def came():
            found = (await lively.letters(stream))[old[stream] :]
            return found if len(found) >= number else None

        return await until(came, f"{number} dead letters of {stream}")

    return new


# Messages that are none

GARBAGE = {"__data__": b"\xc1\xff\x00 no message at all"}
OTHER_SHAPE = {"__data__": b'{"v":1,"colour":"red"}'}
FOREIGN = {"colour": b"red", "size": b"7"}


@pytest.mark.parametrize(
    ("stream", "codes"),
    [
        (streams.QUERIES, ["garbage", "unknown_field", "no_body"]),
        (streams.PACKETS, ["malformed", "malformed", "no_body"]),
        (streams.BATCHES, ["garbage", "unknown_field", "no_body"]),
        (streams.CANDIDATES, ["garbage", "unknown_field", "no_body"]),
    ],
)
async def test_an_unknown_message_ends_as_a_dead_letter_with_its_reason(lively, letters, stream, codes):
    for fields in (GARBAGE, OTHER_SHAPE, FOREIGN):
        await lively.redis.xadd(stream, fields)
    found = await letters(stream, 3)
    assert sorted(letter.code for letter in found) == sorted(codes)
    assert all(len(letter.reason.split()) >= 5 for letter in found)
    assert {GARBAGE["__data__"], OTHER_SHAPE["__data__"]} < {letter.body for letter in found}
    await until(lambda: is_empty(lively, stream), f"nothing left in {stream}")


async def test_queries_around_a_bad_one_are_answered(lively, letters):
    async with lively.desk() as desk:
        before = desk.send("Where does the river go?", max_tokens=4, store=False)
        await lively.redis.xadd(streams.QUERIES, OTHER_SHAPE)
        after = desk.send("And the sea?", max_tokens=4, store=False)
        assert {(await before).finish, (await after).finish} <= {"stop", "length"}
        assert answered_once(desk, await lively.answers(desk))
    assert [letter.code for letter in await letters(streams.QUERIES)] == ["unknown_field"]


async def test_dead_letters_are_listed_with_code_and_reason(lively, sender, letters):
    await sender.send((await sender.seal())[:-1])
    await letters(streams.PACKETS)
    listed = await qig(lively, "dead", "list", "--stream", "packets", "--json")
    last = json.loads(listed.splitlines()[-1])
    assert last["code"] == "malformed"
    assert last["reason"].startswith("no sleep packet: Envelope: ")


# Packets that must not count


async def truncated(sender):
    return (await sender.seal())[:-1]


async def cut_in_half(sender):
    raw = await sender.seal()
    return raw[: len(raw) // 2]


async def oversized(sender):
    return (await sender.seal()).ljust(4097, b"\0")


async def with_a_flipped_signature(sender):
    raw = bytearray(await sender.seal())
    raw[-1] ^= 1
    return bytes(raw)


async def with_a_flipped_body(sender):
    raw = await sender.seal()
    envelope = packet.open_envelope(raw)
    return raw.replace(envelope.body, bytes([*envelope.body[:-1], envelope.body[-1] ^ 1]))


async def of_an_unknown_key(sender):
    return await sender.seal(SigningKey(b"\7" * 32))


async def under_anothers_name(sender):
    """Signed by the stranger; says that edge-1 sent it."""
    envelope = packet.open_envelope(await sender.seal())
    victim = keys.load_private(sender.lively.home, "edge-1").verify_key
    return packet._to_row(envelope.model_copy(update={"key": packet.key_id(victim)}))


async def of_an_old_epoch(sender):
    return await sender.seal(epoch=EPOCH - 1)


async def seen_before(sender):
    return await sender.good()


async def of_another_time(sender):
    return await sender.seal(at_s=time.time() - 3600)


async def on_an_unknown_base(sender):
    return await sender.seal(base_version=999)


@pytest.mark.parametrize(
    ("made", "code", "says"),
    [
        (truncated, "malformed", "no sleep packet: Envelope: "),
        (cut_in_half, "malformed", "no sleep packet: Envelope: "),
        (oversized, "oversized", "packet of 4097 bytes; the limit is 4096"),
        (with_a_flipped_signature, "bad_signature", "was not signed by key"),
        (with_a_flipped_body, "bad_signature", "was not signed by key"),
        (of_an_unknown_key, "unknown_key", "is not enrolled: put the node's .pub file into trust/edges"),
        (under_anothers_name, "bad_signature", "look who publishes under that key's name"),
        (of_an_old_epoch, "stale_epoch", f"epoch {EPOCH - 1} is over, the key is in {EPOCH}"),
        (seen_before, "replayed", "was counted before: it is not counted again"),
        (of_another_time, "clock", "s before the broker took it; 300 s are allowed"),
        (on_an_unknown_base, "base_window", "based on bundle 999"),
    ],
)
async def test_a_bad_packet_is_a_dead_letter_and_those_around_it_count(sender, letters, made, code, says):
    before = await sender.good()
    raw = await sender.send(await made(sender))
    after = await sender.good()
    [letter] = await letters(streams.PACKETS)
    assert (letter.code, letter.body) == (code, raw)
    assert says in letter.reason
    assert await sender.is_counted(before)
    assert await sender.is_counted(after)


async def test_packets_around_bad_ones_reach_both_edges_in_a_bundle(lively, sender, letters):
    good = [await sender.good()]
    for stream in (streams.PACKETS, streams.BATCHES, streams.CANDIDATES):
        await lively.redis.xadd(stream, GARBAGE)
    await sender.send(good[0])
    good += [await sender.good() for _ in range(3)]
    await quiet(lively)
    refs = [ref for bundle in await lively.bundles() for ref in bundle.packets]
    assert [refs.count(packet.open_envelope(raw).ref) for raw in good] == [1] * len(good)
    await lively.newest_on_both_edges(above=1)


# Bundles that must not be used


async def next_bundle(lively, parts):
    """The release that would come next, signed and not listed. parts: beside those of the current one."""
    last = (await lively.bundles())[-1]
    candidate = Candidate(
        id=f"by-hand-{last.version + 1}", parent=last.version, parent_digest=bundles.digest(last),
        parts={**last.parts, **{path: bundles.part_of(data) for path, data in parts.items()}}, evidence=last.evidence,
    )  # fmt: skip
    key = keys.load_private(lively.home, keys.PUBLISHER)
    return bundles.sign(candidate, version=last.version + 1, released_at_s=time.time(), signing_key=key)


async def verdicts(lively, version):
    """Both edges' words on a bundle."""

    async def said():
        found = [told for told in await lively.messages(streams.APPLIED, Applied) if told.version == version]
        return found if {told.node for told in found} == set(EDGES) else None

    return await until(said, f"both edges' verdicts on bundle {version}")


async def check_good_bundles_go_on(lively, sender, good_version):
    """The edges answer with their last good bundle, and the next good one reaches them."""
    assert {await lively.version(node) for node in EDGES} == {good_version}
    async with lively.desk() as desk:
        answer = await desk.ask("Where does the river go?", max_tokens=4)
        assert answer.bundle == good_version
    raw = await sender.good()
    last = await lively.newest_on_both_edges(above=good_version)
    assert packet.open_envelope(raw).ref in last.packets


async def test_a_bundle_with_a_flipped_byte_in_the_message_is_refused_and_the_next_is_used(lively, sender):
    await quiet(lively)
    good = (await lively.bundles())[-1].version
    bundle = await next_bundle(lively, {})
    body = pack(bundle).replace(bundle.signature, bytes([bundle.signature[0] ^ 1]) + bundle.signature[1:])
    entry = await lively.redis.xadd(streams.BUNDLES, {"__data__": body})
    told = await verdicts(lively, bundle.version)
    assert {each.verdict for each in told} == {"refused"}
    assert all(each.reason.startswith("not_released: bundle") for each in told)
    assert all("not_released" in log_of(lively, node, entry) for node in EDGES)
    await check_good_bundles_go_on(lively, sender, good)


async def test_a_bundle_that_is_no_message_any_more_is_logged_and_the_next_is_used(lively, sender):
    await quiet(lively)
    good = (await lively.bundles())[-1].version
    body = pack(await next_bundle(lively, {}))
    entry = await lively.redis.xadd(streams.BUNDLES, {"__data__": bytes([body[0] ^ 0xFF]) + body[1:]})
    for node in EDGES:
        await until(lambda name=node: "passed over: garbage" in log_of(lively, name, entry), f"{node} says so")
    await check_good_bundles_go_on(lively, sender, good)


async def test_an_old_release_that_is_published_again_changes_nothing(lively, sender):
    await quiet(lively)
    releases = await lively.bundles()
    await lively.redis.xadd(streams.BUNDLES, {"__data__": pack(releases[0])})
    await check_good_bundles_go_on(lively, sender, max(each.version for each in releases))


async def test_a_bundle_with_a_flipped_byte_in_a_part_is_refused_and_the_next_is_used(lively, sender):
    await quiet(lively)
    good = (await lively.bundles())[-1].version
    notes = b"notes of the release by hand " + str(time.time_ns()).encode()
    bundle = await next_bundle(lively, {"notes.bin": notes})
    digest = await store.put(lively.redis, notes)
    await lively.redis.setrange(store.chunk_key(digest, 0), 3, b"\xff")
    listed = {each.version: pack(each) for each in await lively.bundles()}
    await list_releases(lively.redis, lively.home, listed | {bundle.version: pack(bundle)})
    await lively.redis.xadd(streams.BUNDLES, {"__data__": pack(bundle)})
    told = await verdicts(lively, bundle.version)
    assert {each.verdict for each in told} == {"refused"}
    assert all(each.reason.startswith(f"part_digest: blob {digest[:12]}") for each in told)
    await store.put(lively.redis, notes)  # mended: who trains on this release needs the part
    await check_good_bundles_go_on(lively, sender, good)


# What the tests look at


def log_of(lively, node, entry):
    """What a process wrote about an entry."""
    lines = lively.fleet.members[node].child.log.read_text().splitlines()
    return "\n".join(line for line in lines if json.loads(line).get("entry") == entry.decode())


async def is_empty(lively, stream):
    return not await lively.redis.xlen(stream)


async def quiet(lively):
    """Nothing is on its way: no packet waits, no batch, no candidate, and both edges serve the newest release."""

    async def still():
        # Along the flow: looked at the other way, what moves on between two looks is seen in neither place.
        for stream in streams.GROUPS:
            waiting = await lively.redis.xlen(stream) or await lively.redis.hlen(LEDGER)
            if waiting or await lively.redis.xlen(streams.outbox(stream)):
                return False
        return True

    await until(still, "empty streams and an empty ledger")
    await lively.newest_on_both_edges(above=0)


async def qig(lively, *arguments):
    """The command on this fleet's broker; what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli.app", *arguments, "--home", str(lively.home), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
