"""A whole fleet on a broker of several servers."""

import pytest
from broker_many import cluster
from live_fleet import answered_once, live

from common.runtime import streams

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(180)]


async def test_packets_become_bundles_on_a_cluster_whose_master_is_killed_meanwhile(tmp_path, micro_parts):
    with cluster(tmp_path / "cluster") as many:
        async with live(tmp_path / "home", micro_parts, broker_url=many.url) as lively, lively.desk() as desk:
            async with lively.traffic(desk):
                await lively.read(desk, 10)
                await lively.newest_on_both_edges(above=1)
                many.master_of(streams.PACKETS).kill()
                version = (await lively.bundles())[-1].version
                await lively.read(desk, 10)
                await lively.newest_on_both_edges(above=version)
            await desk.all_answered()
            assert desk.lost == 0
            assert answered_once(desk, await lively.answers(desk))
            await lively.settled()
            merged = [ref.packed for bundle in await lively.bundles() for ref in bundle.packets]
            assert len(merged) == len(set(merged)) == len(lively.sent())
