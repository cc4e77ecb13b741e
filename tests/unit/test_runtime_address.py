import pytest
from redis.asyncio.connection import SSLConnection

from common.runtime.address import parse


def test_one_server_is_what_redis_py_takes_it_for():
    assert (parse("redis://x:1/2").kind, parse("redis://x:1/2").options) == (
        "server",
        {"host": "x", "port": 1, "db": 2},
    )
    assert parse("unix:///run/x").options["path"] == "/run/x"


def test_sentinels_and_the_masters_name():
    told = parse("redis+sentinel://me:p%40ss@a,b:26380,[::1]:7/fleet/2?sentinel_username=s&sentinel_password=t")
    assert told.nodes == (("a", 26_379), ("b", 26_380), ("::1", 7))
    assert (told.kind, told.master) == ("sentinel", "fleet")
    assert told.options == {"username": "me", "password": "p@ss", "db": 2}
    assert told.sentinel_options == {"username": "s", "password": "t"}


def test_some_nodes_of_a_cluster():
    told = parse("redis+cluster://:secret@a:7000,b")
    assert (told.kind, told.nodes) == ("cluster", (("a", 7000), ("b", 6379)))
    assert told.options == {"password": "secret"}


@pytest.mark.parametrize("url", ["rediss+sentinel://a/fleet", "rediss+cluster://a"])
def test_the_same_over_tls(url):
    assert parse(url).options == {"connection_class": SSLConnection}


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("http://secret@a", "it begins with redis://"),
        ("redis+ring://secret@a", "it begins with redis://"),
        ("redis+cluster://:secret@a/1", "a cluster has one database"),
        ("redis+cluster://:secret@a,,b", "'' is no HOST"),
        ("redis+cluster://:secret@a:x", "'a:x' is no HOST"),
        ("redis+sentinel://:secret@a", "the master's name follows"),
    ],
)
def test_what_is_none_is_refused_without_showing_it_whole(url, wrong):
    with pytest.raises(ValueError, match=wrong) as refused:
        parse(url)
    assert "secret" not in str(refused.value)
