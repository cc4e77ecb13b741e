import pytest
from client_asking import NAME

from common.client import Client


@pytest.fixture
async def client(redis, broker_url):
    async with Client(broker_url, name=NAME) as made:
        yield made
