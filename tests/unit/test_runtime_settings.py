import pytest

from common.errors import Rejected
from common.runtime import settings
from common.runtime.settings import SERVICES, AggregatorSettings, EdgeSettings, given_broker, load

URL = {"QIG_BROKER_URL": "redis://127.0.0.1:1"}


@pytest.mark.parametrize("model", SERVICES.values())
def test_every_service_starts_with_nothing_but_a_broker_and_has_few_settings(model):
    assert load(model, URL).broker_url == URL["QIG_BROKER_URL"]
    assert len(model.model_fields) <= 15


def test_a_setting_comes_from_its_variable():
    assert load(EdgeSettings, URL | {"QIG_CRYSTAL_BYTES": "2900"}).crystal_bytes == 2900


def test_one_environment_may_serve_several_services():
    assert load(EdgeSettings, URL | {"QIG_BATCH_PACKETS": "3"}).crystal_bytes == 1024


def test_variables_of_others_are_none_of_our_business():
    assert load(EdgeSettings, URL | {"HOME": "/", "QIGONG": "1"})


@pytest.mark.parametrize(
    ("name", "hint"), [("QIG_BATCH_PACKET", "did you mean QIG_BATCH_PACKETS"), ("QIG_ZZZ", "see docs/settings.md")]
)
def test_an_unknown_setting_is_refused_with_the_closest_name(name, hint):
    with pytest.raises(Rejected, match=f"unknown_setting: {name} is no setting: {hint}"):
        load(AggregatorSettings, URL | {name: "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("QIG_CRYSTAL_BYTES", "2901"), ("QIG_PROBE_SHARE", "1"), ("QIG_HTTP_PORT", "x"), ("QIG_NODE", "a/b")],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(Rejected, match=f"bad_setting: {name}='{value}'"):
        load(EdgeSettings, URL | {name: value})


def test_a_missing_broker_says_how_to_get_one():
    with pytest.raises(Rejected, match=r"no_broker.*qig up"):
        load(EdgeSettings, {})


def test_an_address_that_is_none_is_refused_without_showing_it():
    with pytest.raises(Rejected, match="bad_setting") as refused:
        load(EdgeSettings, {"QIG_BROKER_URL": "http://user:secret@x"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis+cluster://a:7000,b:7001", "rediss+sentinel://a,b,c/fleet"])
def test_the_broker_may_be_several_servers(url):
    assert load(EdgeSettings, {"QIG_BROKER_URL": url}).broker_url == url


def test_the_address_may_come_from_a_file(tmp_path):
    file = tmp_path / "url"
    file.write_text("redis://:secret@x:1\n")
    assert load(EdgeSettings, {"QIG_BROKER_URL_FILE": str(file)}).broker_url == "redis://:secret@x:1"
    with pytest.raises(Rejected, match="QIG_BROKER_URL_FILE"):
        load(EdgeSettings, {"QIG_BROKER_URL_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(("held", "why"), [(b"\n", "it is empty"), (b"\xff", "it is no UTF-8 text")])
def test_a_file_that_holds_no_address_is_refused(tmp_path, held, why):
    file = tmp_path / "url"
    file.write_bytes(held)
    with pytest.raises(Rejected, match=f"bad_setting: QIG_BROKER_URL_FILE={file}: {why}"):
        given_broker({"QIG_BROKER_URL_FILE": str(file), "QIG_BROKER_URL": "redis://x:1"})


def test_a_variable_that_is_set_to_nothing_names_no_broker():
    assert given_broker({"QIG_BROKER_URL_FILE": "", "QIG_BROKER_URL": ""}) is None
    assert load(EdgeSettings, {"QIG_BROKER_URL_FILE": "", "QIG_BROKER_URL": "redis://x:1"}).broker_url == "redis://x:1"


def test_a_pattern_is_shown_as_it_is():
    with pytest.raises(Rejected, match=r"QIG_NODE='a b': string should match pattern '\^\[A-Za-z0-9\]"):
        load(EdgeSettings, URL | {"QIG_NODE": "a b"})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://x:1/0", "redis://x:1/0"),
        ("redis://:secret@x:1", "redis://:***@x:1"),
        ("rediss://me:a@b@x", "rediss://me:***@x"),
        ("unix:///run/x?password=secret", "unix:///run/x?password=***"),
        ("redis+cluster://me:secret@x:1,y:2", "redis+cluster://me:***@x:1,y:2"),
        ("redis+sentinel://x,y/z?sentinel_password=secret&db=1", "redis+sentinel://x,y/z?sentinel_password=***&db=1"),
    ],
)
def test_a_password_is_never_shown(url, shown):
    assert settings.redacted(url) == shown


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load(EdgeSettings, URL).node = "other"


def test_the_reference_names_every_variable_once_with_its_default():
    text = settings.markdown()
    for name in settings.known_variables() - {settings.BROKER_URL_FILE}:
        assert f"| `{name}` |" in text
    assert "| `QIG_CRYSTAL_BYTES` | `1024` |" in text
    assert "None" not in text


RAILWAY = {"PORT": "7654", "RAILWAY_REPLICA_ID": "0b1f8b34-7a2d-4b7e-9a55-5f2f6d1c9e77"}


@pytest.mark.parametrize("name", settings.RAILWAY)
def test_on_railway_its_word_goes_before_that_of_the_image(name):
    image = {"QIG_HTTP_HOST": "0.0.0.0", "QIG_HTTP_PORT": "8000"}
    loaded = load(EdgeSettings, URL | image | RAILWAY | {name: "production"})
    assert (loaded.http_host, loaded.http_port) == ("::", 7654)
    assert loaded.replica == RAILWAY["RAILWAY_REPLICA_ID"]


def test_elsewhere_the_same_variables_say_nothing():
    loaded = load(EdgeSettings, URL | RAILWAY | {"RAILWAY_ENVIRONMENT_NAME": ""})
    assert (loaded.http_host, loaded.http_port, loaded.replica) == ("127.0.0.1", 8000, None)


def test_on_railway_what_it_does_not_say_is_as_it_was_set():
    loaded = load(EdgeSettings, URL | {"RAILWAY_ENVIRONMENT_NAME": "production", "QIG_HTTP_PORT": "9000"})
    assert (loaded.http_host, loaded.http_port, loaded.replica) == ("::", 9000, None)
