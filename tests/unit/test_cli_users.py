import pytest
from typer.testing import CliRunner

from common.errors import Rejected
from common.runtime import access, rights
from services.cli.app import app


@pytest.fixture
def qig(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words):
        done = CliRunner().invoke(app, ["keys", "broker", *words, "--home", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0
        return " ".join(done.output.split())

    return run


def passwords(home):
    return {url.read_text().split(":")[2].partition("@")[0] for url in access.folder(home).glob("*.url")}


def test_users_are_made_rotated_and_retired_and_no_password_is_ever_shown(qig, tmp_path):
    said = qig("--client", "kiosk")
    seen = passwords(tmp_path)
    assert len(seen) == len(rights.ROLES) + 1
    assert "keys broker --load" in said
    assert "nothing was changed" in qig()
    said += qig("--rotate", "kiosk") + qig("--retire", "kiosk") + qig("--at", "redis://broker:6379")
    seen |= passwords(tmp_path)
    assert len(seen) == len(rights.ROLES) + 2
    assert not [password for password in seen if password in said]
    assert "nothing was changed" in qig("--retire", "kiosk")


def test_a_clients_user_in_anothers_family_is_refused(qig, tmp_path):
    with pytest.raises(Rejected, match=r"bad_name: 'kiosk\.1' cannot name a client's user: .* no point"):
        qig("--client", "kiosk", "--client", "kiosk.1")
    assert not access.folder(tmp_path).exists()


@pytest.mark.parametrize("words", [("--rotate", "edge", "--load"), ("--client", "a", "--retire", "edge")])
def test_it_does_one_thing_at_a_time(qig, words):
    with pytest.raises(Rejected, match="one thing at a time"):
        qig(*words)
