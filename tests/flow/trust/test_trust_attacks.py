"""What a reader of bundles believes, while somebody writes what he likes into the broker; TUF's attacks by name."""

import hashlib
import json
import random
import time

import pytest
from listing import list_releases
from nacl.signing import SigningKey
from released import DAY_S, STRANGER, files, message, of_role, put_back, release

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import keys, streams
from common.runtime.releases import newest_release
from common.runtime.trust import FILE_MAX_BYTES, Trust
from common.wire.codec import unpack
from common.wire.messages import Bundle
from services.publisher import metadata

pytestmark = pytest.mark.anyio


async def test_what_was_released_is_believed_and_a_version_of_another_content_is_not(home, redis, reader):
    messages = await release(redis, home, 3)
    trust = reader()
    for version, data in messages.items():
        await trust.verify(version, data)
    with pytest.raises(Corrupt, match="not_released: bundle 3"):
        await trust.verify(3, message(home, 3, b"other"))


async def test_the_release_that_follows_is_found_by_looking_again(home, redis, reader):
    trust = reader()
    await release(redis, home, 1)
    await trust.verify(1, message(home, 1))
    await release(redis, home, 2)
    await trust.verify(2, message(home, 2))


async def test_a_reader_that_missed_five_hundred_releases_believes_the_newest_and_none_before_the_list(
    home, redis, reader
):
    await release(redis, home, 1)
    await reader().verify(1, message(home, 1))
    await list_releases(redis, home, metadata.newest({v: message(home, v) for v in range(400, 502)}))
    trust = reader()
    await trust.verify(501, message(home, 501))
    await trust.verify(438, message(home, 438))
    with pytest.raises(Corrupt, match="from 438 on, does not name it"):
        await trust.verify(437, message(home, 437))


async def test_the_newest_release_is_the_highest_that_is_believed(home, redis, reader):
    messages = await release(redis, home, 2)
    for data in (messages[2], message(home, 9, key=STRANGER), b"garbage", messages[1]):
        await redis.xadd(streams.BUNDLES, {"__data__": data})
    found = await newest_release(redis, reader())
    assert found.version == 2


# The attacks


async def test_arbitrary_installation(home, redis, reader):
    """A bundle of somebody who can write into the stream, with metadata that he signed too."""
    await release(redis, home, 1)
    forged = message(home, 2, key=STRANGER)
    with pytest.raises(Corrupt, match="not_released"):
        await reader().verify(2, forged)
    own = keys.load_offline(home)
    forged_list = resigned_online(await files(redis), own, {2: forged}, STRANGER)
    await put_back(redis, forged_list)
    with pytest.raises(Unavailable, match="bad_metadata"):
        await reader().verify(2, forged)


def resigned_online(held, offline, released, key):
    """A list that `key` signed, though no root names it."""
    named = metadata.check_key
    metadata.check_key = lambda *_: None
    try:
        decoded = {name.decode(): data for name, data in held.items()}
        return dict(held) | dict(metadata.signed(offline, released, decoded, key, now_s=time.time() + 60))
    finally:
        metadata.check_key = named


async def test_rollback(home, redis, reader):
    """Yesterday's metadata, which was good then; the reader remembers what it saw, also after a restart."""
    await release(redis, home, 1, now_s=time.time() - 100)
    old = await files(redis)
    await release(redis, home, 2)
    await reader().verify(2, message(home, 2))
    await put_back(redis, old)
    with pytest.raises(Unavailable, match=r"bad_metadata.*version"):
        await reader().verify(3, message(home, 3))


@pytest.mark.parametrize(("age_s", "is_fresh"), [(DAY_S - 60, True), (DAY_S + 1, False)])
async def test_freeze(home, redis, reader, age_s, is_fresh):
    """The last list that the attacker lets through, for ever: it ends after a day."""
    await release(redis, home, 1, now_s=time.time() - age_s)
    if is_fresh:
        await reader().verify(1, message(home, 1))
    else:
        with pytest.raises(Unavailable, match=r"metadata_expired.*silent.*withheld.*clock"):
            await reader().verify(1, message(home, 1))
        await release(redis, home, 1)
        await reader().verify(1, message(home, 1))


@pytest.mark.parametrize("role", ["bundles", "snapshot"])
async def test_mix_and_match(home, redis, reader, role):
    """Files that were each good, of different times."""
    await release(redis, home, 1, now_s=time.time() - 100)
    old = await files(redis)
    await release(redis, home, 2)
    new = await files(redis)
    await put_back(redis, new | {of_role(new, role): old[of_role(old, role)]})
    with pytest.raises(Unavailable, match="bad_metadata"):
        await reader().verify(2, message(home, 2))
    await put_back(redis, new)
    await reader().verify(2, message(home, 2))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "bundles", "targets", "2.root"])
async def test_endless_data(home, redis, reader, role):
    await release(redis, home, 1)
    held = await files(redis)
    name = b"2.root.json" if role == "2.root" else of_role(held, role)
    await redis.hset(streams.METADATA, name, b"{" * (FILE_MAX_BYTES + 1))
    with pytest.raises(Unavailable, match=r"bad_metadata.*bytes"):
        await reader().verify(1, message(home, 1))


async def test_wrong_role(home, redis, reader):
    """The publisher's key, which signs lists, cannot hand its role to another key, nor sign a root."""
    await release(redis, home, 1)
    publisher = keys.load_private(home, keys.PUBLISHER)
    for name in (of_role(await files(redis), "targets"), b"2.root.json"):
        held = await files(redis)
        source = held.get(name) or held[b"1.root.json"]
        signed = json.loads(source)["signed"] | {"version": 2}
        forged = metadata.roles.opened(json.dumps({"signatures": [], "signed": signed}).encode())
        forged.sign(metadata.PrivateKey(publisher))
        await redis.hset(streams.METADATA, name, forged.to_bytes())
        with pytest.raises(Unavailable, match="bad_metadata"):
            await reader().verify(1, message(home, 1))
        await put_back(redis, held)
    await reader().verify(1, message(home, 1))


async def test_fewer_root_keys_than_the_threshold_make_no_root(home, redis, reader):
    """One of three root keys stolen: what it signs alone is not a root."""
    await release(redis, home, 1)
    stolen = SigningKey(bytes.fromhex((keys.offline_dir(home) / "root-1.key").read_text()))
    root = metadata.roles.opened(keys.load_root(home))
    root.signed.version = 2
    root.signatures.clear()
    root.sign(metadata.PrivateKey(stolen))
    await redis.hset(streams.METADATA, "2.root.json", root.to_bytes())
    with pytest.raises(Unavailable, match=r"bad_metadata.*root was signed by 1/2 keys"):
        await reader().verify(1, message(home, 1))


async def test_a_stolen_root_key_is_replaced_and_readers_follow_with_no_hand(home, redis, reader):
    messages = await release(redis, home, 1)
    stolen = SigningKey(bytes.fromhex((keys.offline_dir(home) / "root-1.key").read_text()))
    there_before, new = reader("before"), reader("new")
    await there_before.verify(1, messages[1])
    keys.replace(home, ["root-1"], offline=keys.offline_dir(home), stolen=True)
    await release(redis, home, 2)
    for trust in (there_before, new):  # both began with the root that still names the stolen key
        await trust.verify(2, message(home, 2))
    other = SigningKey(bytes.fromhex((keys.offline_dir(home) / "root-2.key").read_text()))
    root = metadata.roles.opened(keys.load_offline(home).root)
    root.signed.version = 3
    root.signatures.clear()
    for key in (stolen, other):  # with one more stolen key it would have been enough, had it not been replaced
        root.sign(metadata.PrivateKey(key), append=True)
    await redis.hset(streams.METADATA, "3.root.json", root.to_bytes())
    with pytest.raises(Unavailable, match="bad_metadata"):
        await reader("before").verify(3, message(home, 3))


async def test_after_many_replacements_a_reader_of_the_first_root_still_follows(home, redis, reader):
    for name in ["publisher", "root-1", "root-2", "root-3", "targets"] * 2:
        keys.replace(home, [name], offline=keys.offline_dir(home))
    await release(redis, home, 1)
    await reader().verify(1, message(home, 1))


async def test_what_a_stolen_publisher_key_lists_after_its_replacement_is_not_believed(home, redis, reader):
    thief = keys.load_private(home, keys.PUBLISHER)
    messages = await release(redis, home, 1)
    before = await files(redis)
    await reader().verify(1, messages[1])
    last_good = metadata.digest(unpack(Bundle, messages[1]))
    keys.replace(home, ["publisher"], offline=keys.offline_dir(home), stolen=True, believed=last_good)
    offline = keys.load_offline(home)
    targets = metadata.roles.parsed(offline.targets, metadata.Targets)
    evil = message(home, 2, b"evil", key=thief)
    own = keys.load_private(home, keys.PUBLISHER)
    believed = metadata.believed([*messages.values(), evil], own.verify_key, targets)
    assert believed == messages
    await list_releases(redis, home, believed)
    trust = reader()
    await trust.verify(1, messages[1])
    await put_back(redis, await files(redis) | resigned_online(before, offline, {2: evil}, thief))
    with pytest.raises(Unavailable, match="bad_metadata"):
        await trust.verify(2, evil)


async def test_a_version_far_ahead_under_a_stolen_key_holds_nobody_up_after_its_replacement(home, redis, reader):
    """The fast-forward attack: a reader that saw it would take every later list for a rollback."""
    await release(redis, home, 1, now_s=time.time() + 100 * 365 * DAY_S)
    await reader().verify(1, message(home, 1))
    keys.replace(home, ["publisher"], offline=keys.offline_dir(home))
    messages = await release(redis, home, 2)
    await reader().verify(2, messages[2])


async def test_a_flood_of_forged_bundles_makes_nobody_look_again_and_again(home, redis, reader, monkeypatch):
    messages = await release(redis, home, 1)
    trust = reader()
    await trust.verify(1, messages[1])
    looks, look = [], Trust._look
    monkeypatch.setattr(Trust, "_look", lambda *given: looks.append(given) or look(*given))
    for version in range(2, 100):
        with pytest.raises(Corrupt, match="not_released"):
            await trust.verify(version, message(home, version, key=STRANGER))
    assert looks == []
    messages = await release(redis, home, 2)
    await trust.verify(2, messages[2])
    assert len(looks) == 1


async def test_of_a_thousand_mutated_bundles_none_is_believed(home, redis, reader):
    messages = await release(redis, home, 8)
    trust, rng = reader(), random.Random(7)
    await trust.verify(8, messages[8])
    for number in range(1_000):
        mutated = mutate(rng, messages, number)
        try:
            version = unpack(Bundle, mutated).version
        except Rejected:
            version = rng.randint(1, 8)
        with pytest.raises(Corrupt, match="not_released"):
            await trust.verify(version, mutated)


def mutate(rng, messages, number):
    """A flipped bit, a cut, an insertion, or the head of one release with the tail of another."""
    data = messages[rng.randint(1, 8)]
    place = rng.randrange(len(data))
    match number % 4:
        case 0:
            return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        case 1:
            return data[:place]
        case 2:
            return data[:place] + rng.randbytes(rng.randint(1, 9)) + data[place:]
        case _:
            other = messages[rng.randint(1, 8)]
            mixed = data[:place] + other[place:]
            return mixed if mixed not in messages.values() else mixed + b"\0"


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("bundles/x", {}),
        ("bundles/" + "9" * 5000, {}),
        ("bundles/2", {"custom": {"ring": "all"}}),
        ("bundles/2", {"custom": [1]}),
        ("bundles/2", {"hashes": {"sha512": "00"}}),
    ],
    ids=["no number", "a long number", "a ring by name", "no map", "another digest"],
)
async def test_a_list_that_the_right_key_signed_and_no_publisher_makes_is_not_believed(
    home, redis, reader, path, changed
):
    messages = await release(redis, home, 2)
    held = await files(redis)
    listing = of_role(held, "bundles")
    number = listing.partition(b".")[0]
    told = json.loads(held[listing])["signed"]
    told["targets"][path] = told["targets"]["bundles/2"] | changed
    signed = resigned(told, keys.load_private(home, keys.PUBLISHER))
    forged = {listing: signed}
    for name, of in ((number + b".snapshot.json", "bundles.json"), (b"timestamp.json", "snapshot.json")):
        told = json.loads(held[name])["signed"]
        told["meta"][of] |= {"length": len(signed), "hashes": {"sha256": hashlib.sha256(signed).hexdigest()}}
        signed = forged[name] = resigned(told, keys.load_private(home, keys.PUBLISHER))
    await put_back(redis, held | forged)
    with pytest.raises(Unavailable, match=r"bad_metadata.*which is none of them"):
        await reader().verify(2, messages[2])
    await put_back(redis, held)
    await reader("new").verify(2, messages[2])


def resigned(told, key):
    opened = metadata.roles.opened(json.dumps({"signatures": [], "signed": told}).encode())
    opened.sign(metadata.PrivateKey(key))
    return opened.to_bytes()


async def test_no_mutation_of_the_metadata_makes_a_forged_bundle_believed(home, redis, reader):
    """Whatever bytes change in the metadata: what is believed is what was released, or nobody can tell."""
    messages = await release(redis, home, 2)
    forged = message(home, 2, b"forged")
    digest, wanted = (hashlib.sha256(data).hexdigest().encode() for data in (messages[2], forged))
    held, rng = await files(redis), random.Random(11)
    for number in range(250):
        name = rng.choice(sorted(held))
        data = held[name]
        place = rng.randrange(len(data))
        changed = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        await redis.hset(streams.METADATA, name, changed.replace(digest, wanted) if number % 2 else changed)
        try:
            with pytest.raises((Corrupt, Unavailable)):
                await reader(f"r{number}").verify(2, forged)
        finally:
            await redis.hset(streams.METADATA, name, data)
