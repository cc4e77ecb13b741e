"""A batch that is wrong in itself: its packets go back to their edges."""

import pytest
from centre import ref_of

from common.errors import Rejected, Unavailable
from common.runtime import keys, streams
from common.runtime.entries import Delivery
from common.runtime.settings import TrainerSettings
from common.runtime.trust import Trust
from common.wire.messages import Batch, DomainUpdate, PacketRef, batch_id
from services.trainer.app import MAX_DELIVERIES, Trainer

pytestmark = pytest.mark.anyio


@pytest.fixture
def trainer(centre):
    settings = TrainerSettings(broker_url=centre.url, home=centre.home, http_port=0, steps=0)
    return Trainer(settings, centre.broker, Trust(centre.broker.redis, keys.load_root(centre.home)))


def batch(centre, crystals):
    ref = PacketRef(key=ref_of(centre, 0, 1)[:8], epoch=1, sequence=1)
    update = DomainUpdate(
        name="percept", kernel="percept", opened=False, basin=bytes(128), crystals=crystals, packets=1, tokens=9,
        fresh_bytes=30, fresh_bits=60.0,
    )  # fmt: skip
    return Batch(id=batch_id([ref]), base_version=1, base_digest="", domains=(update,), packets=(ref,))


def delivery():
    return Delivery(streams.BATCHES, "1-0", 1, 1, b"")


async def test_the_packets_of_a_batch_that_is_wrong_in_itself_go_back_once(centre, trainer):
    await centre.release()
    wrong = batch(centre, b"no crystals")
    for _ in range(2):  # as after a kill between this word and the dead letter
        with pytest.raises(Rejected):
            await trainer.take(delivery(), wrong)
    ((ref, _),) = await centre.returned()
    assert ref == ref_of(centre, 0, 1)


async def test_a_batch_that_no_try_came_to_an_end_with_goes_back_and_is_none_when_it_is_replayed(centre, trainer):
    await centre.release()
    sound = batch(centre, b"no crystals")
    last = Delivery(streams.BATCHES, "1-0", 1, MAX_DELIVERIES, b"")
    with pytest.raises(Rejected, match="never_finished"):
        await trainer.take(last, sound)
    assert [code for _, code in await centre.returned()] == ["never_finished"]
    with pytest.raises(Rejected, match="batch_returned"):
        await trainer.take(delivery(), sound)
    assert len(await centre.returned()) == 1


async def test_a_batch_that_waits_gives_nothing_back(centre, trainer):
    with pytest.raises(Unavailable, match="no bundle"):
        await trainer.take(delivery(), batch(centre, b"no crystals"))
    assert await centre.returned() == []
