"""A batch as a file: saved with what it is for, and consolidated from there to the bytes that a trainer makes."""

import asyncio
import hashlib
import json

import pytest
from centre import NODES, Centre, ref_of
from corpora import small_corpora
from micro import MICRO

from common.errors import Rejected, Unavailable
from common.runtime import keys, streams
from common.runtime.entries import Delivery
from common.runtime.settings import TrainerSettings
from common.runtime.trust import Trust
from common.wire.codec import pack, unpack
from common.wire.crystals import crystals, encode, entry
from common.wire.messages import Batch, Candidate, DeadLetter, DomainUpdate, PacketRef, batch_id
from services.cli import batch as room
from services.cli import train
from services.trainer import folder
from services.trainer.app import Trainer

pytestmark = pytest.mark.anyio
CRYSTALS = encode(crystals([entry((), 40, count=9, total=9), entry((40,), 41, count=9, total=9)]), MICRO.vocab)


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts, monkeypatch):
    monkeypatch.setenv("QIG_BROKER_URL", broker_url)
    keys.init(tmp_path, NODES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return small_corpora(tmp_path_factory.mktemp("text") / "corpora")


def made(centre, number):
    ref = PacketRef(key=ref_of(centre, 0, 1)[:8], epoch=1, sequence=number)
    update = DomainUpdate(
        name="percept", kernel="percept", opened=False, basin=bytes(128), crystals=CRYSTALS, packets=1, tokens=9,
        fresh_bytes=30, fresh_bits=60.0,
    )  # fmt: skip
    return Batch(id=batch_id([ref]), base_version=1, base_digest="", domains=(update,), packets=(ref,))


async def waiting(centre, *batches):
    for each in batches:
        await centre.broker.produce(streams.BATCHES, pack(each), each.id)


async def command(work, *arguments, **options):
    return await asyncio.to_thread(work, *arguments, **options)


@pytest.mark.parametrize("steps", [0, 3])
async def test_a_saved_batch_becomes_what_a_trainer_makes_of_it_byte_for_byte(centre, few, tmp_path, capsys, steps):
    await centre.release()
    given, out = made(centre, 1), tmp_path / "saved"
    await waiting(centre, given)
    await command(room.save, None, out, centre.home)
    settings = TrainerSettings(
        broker_url=centre.url, home=centre.home, data=few, steps=steps, genesis=centre.home / "genesis"
    )
    trainer = Trainer(settings, centre.broker, Trust(centre.broker.redis, keys.load_root(centre.home)))
    *_, sent, _ = await trainer.take(Delivery(streams.BATCHES, "1-0", 1, 1, b""), given)
    capsys.readouterr()
    options = {"parent": None, "out": tmp_path / "candidate", "data": few, "steps": steps, "seed": 0}
    await command(train.consolidate, batch=out / room.FILE, **options, json=True)
    *figures, last = map(json.loads, capsys.readouterr().out.splitlines())
    candidate = unpack(Candidate, sent.message)
    written = folder.read(tmp_path / "candidate")
    assert {path: hashlib.sha256(data).hexdigest() for path, data in written.items()} == {
        path: part.digest for path, part in candidate.parts.items()
    }
    assert figures == [figure.model_dump(mode="json") for figure in candidate.evidence.figures]
    assert last["changed"] == sorted(path for path, data in written.items() if centre.parts[path] != data)
    assert not (tmp_path / "candidate-run").exists()


async def test_what_waits_and_what_is_dead_is_listed_the_oldest_first(centre, capsys):
    one, two, dead = (made(centre, number) for number in (1, 2, 3))
    await waiting(centre, one, two)
    letter = {"stream": streams.BATCHES, "entry": "1-1", "code": "c", "reason": "r", "deliveries": 1, "at_s": 1.0}
    for body in (pack(dead), b"no batch"):
        await centre.broker.produce(
            streams.dead(streams.BATCHES), pack(DeadLetter(**letter, body=body)), hashlib.sha256(body).hexdigest()
        )
    await centre.broker.redis.xadd(streams.dead(streams.BATCHES), {"__data__": b"\xc1"})  # no letter
    await command(room.show, centre.home, json=True)
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [(line["id"], line["where"]) for line in lines] == [
        (one.id, "waiting"), (two.id, "waiting"), (dead.id, "dead")
    ]  # fmt: skip
    assert {(line["packets"], line["tokens"]["percept"]) for line in lines} == {(1, 9)}
    await command(room.show, centre.home, json=False)
    assert one.id[: room.SHOWN] in capsys.readouterr().out


async def test_a_batch_is_saved_by_the_beginning_of_its_id(centre, tmp_path):
    await centre.release()
    batches = [made(centre, number) for number in range(1, 18)]  # 17: two begin alike
    await waiting(centre, *batches)
    await command(room.save, batches[5].id, tmp_path / "saved", centre.home)
    assert (tmp_path / "saved" / room.FILE).read_bytes() == pack(batches[5])
    beginnings = [each.id[0] for each in batches]
    twice = next(each for each in beginnings if beginnings.count(each) > 1)
    with pytest.raises(Rejected, match="say more"):
        await command(room.save, twice, tmp_path / "other", centre.home)
    with pytest.raises(Unavailable, match="no_batch"):
        await command(room.save, "none", tmp_path / "other", centre.home)
    assert not (tmp_path / "other").exists()


async def test_where_no_batch_waits_it_says_so(centre, tmp_path):
    with pytest.raises(Unavailable, match="no batch waits, and none is dead"):
        await command(room.save, None, tmp_path / "saved", centre.home)


async def test_without_a_release_there_is_nothing_to_consolidate_a_batch_on(centre, tmp_path):
    await waiting(centre, made(centre, 1))
    with pytest.raises(Unavailable, match="no_bundle"):
        await command(room.save, None, tmp_path / "saved", centre.home)


@pytest.mark.parametrize(("file", "code"), [(None, "unreadable"), (b"no batch", ""), (bytes(2 << 20), "oversized")])
def test_what_is_no_batch_or_lies_beside_no_constellation_is_said_so(tmp_path, few, file, code):
    if file is not None:
        (tmp_path / "batch").write_bytes(file)
    options = {"parent": None, "out": tmp_path / "out", "data": few, "steps": 0, "seed": 0, "json": False}
    with pytest.raises((Rejected, Unavailable)) as error:
        train.consolidate(batch=tmp_path / "batch", **options)
    assert code in error.value.code
    assert str(tmp_path / "batch") in error.value.message
    assert not (tmp_path / "out").exists()


def test_a_folder_is_answered_with_the_file_in_it(tmp_path, few):
    options = {"parent": None, "out": tmp_path / "out", "data": few, "steps": 0, "seed": 0, "json": False}
    with pytest.raises(Unavailable, match=r"is a directory: name .*batch\.msgpack"):
        train.consolidate(batch=tmp_path, **options)


async def test_a_parent_that_is_no_constellation_is_named(tmp_path, few, centre):
    (tmp_path / "batch").write_bytes(pack(made(centre, 1)))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("no part of anything")
    options = {"parent": tmp_path / "else", "out": tmp_path / "out", "data": few, "steps": 0, "seed": 0, "json": False}
    with pytest.raises(Unavailable, match=r"no constellation at .*else"):
        await command(train.consolidate, batch=tmp_path / "batch", **options)
