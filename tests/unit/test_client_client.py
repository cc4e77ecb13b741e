import re

import pytest

from common.client import Client, Wishes
from common.errors import Rejected
from common.wire.inference import Query


def test_what_may_be_wished_is_what_a_query_has():
    given_by_the_client = {"v", "client", "text", "stream"}
    assert set(Wishes.__annotations__) == set(Query.model_fields) - given_by_the_client


@pytest.mark.parametrize("url", ["", "127.0.0.1:6379", "http://127.0.0.1"])
def test_what_is_no_brokers_address_is_refused(url):
    with pytest.raises(Rejected, match=r"bad_url: .*redis://"):
        Client(url)


def test_clients_without_a_name_have_each_their_own():
    names = {Client("redis://127.0.0.1:1").name for _ in range(2)}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("user", "family"),
    [
        ("kiosk", "kiosk"),
        ("x" * 47, "x" * 47),
        ("x" * 48, "client"),
        ("svc%40corp", "client"),
        ("-a", "client"),
        ("*", "client"),
        ("", "client"),
    ],
)
def test_a_client_without_a_name_is_of_its_users_family_where_that_is_a_slug(user, family):
    assert re.fullmatch(rf"{family}\.[0-9a-f]{{16}}", Client(f"redis://{user}:secret@127.0.0.1:1").name)


@pytest.mark.parametrize("name", ["a b", "-a", "x" * 65])
def test_a_name_that_is_no_slug_is_a_programmer_error(name):
    with pytest.raises(ValueError, match="slug"):
        Client("redis://127.0.0.1:1", name=name)
