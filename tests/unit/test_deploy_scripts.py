"""The images' own scripts: keys that go where they belong, and names that no two edges share."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.metadata import Root

from common.errors import Unavailable
from common.runtime import access, keys
from common.trust import roles
from deploy import claim_node, make_keys

NODES = ("edge-1", "edge-2", "edge-10")


@pytest.fixture
def held() -> Callable[[int], None]:
    handles: list[int] = []
    yield handles.append
    for handle in handles:
        os.close(handle)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    keys.init(tmp_path, NODES)
    (tmp_path / "private" / "publisher.key").unlink()  # an edge's volume has none
    return tmp_path


def test_private_keys_lie_apart_and_match_their_public_ones(tmp_path: Path) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    own = keys.SigningKey(bytes.fromhex((tmp_path / "edges" / "edge-1.key").read_text()))
    assert own.verify_key == keys.load_public(tmp_path / "trust" / "edges" / "edge-1.pub")
    root = roles.parsed(keys.load_offline(tmp_path).root, Root)
    publisher = keys.load_private(tmp_path, keys.PUBLISHER).verify_key
    assert roles.named_keys(root)[keys.PUBLISHER].verify_key() == publisher
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.key")} == {0o600}
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["publisher.key"]
    assert sorted(path.name for path in (tmp_path / "edges").iterdir()) == ["edge-1.key", "fleet.secret"]
    assert len(keys.load_secret(tmp_path / "edges" / "fleet.secret")) == 32


def test_keys_that_exist_are_kept_when_more_edges_are_enrolled(tmp_path: Path) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert make_keys.make(tmp_path, ["edge-1"]) == []
    assert len(make_keys.make(tmp_path, ["edge-1", "edge-2"])) == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_cut_short_before_the_public_key_is_completed(tmp_path: Path) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    public = tmp_path / "trust" / "edges" / "edge-1.pub"
    was = public.read_bytes()
    public.unlink()
    assert make_keys.make(tmp_path, ["edge-1"]) == [public]
    assert public.read_bytes() == was


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_run_that_was_cut_short_anywhere_is_completed(tmp_path: Path, monkeypatch, cut: int) -> None:
    place, placed = make_keys._place, []

    def dying(source: Path, path: Path) -> bool:
        if len(placed) == cut:
            raise KeyboardInterrupt
        placed.append(path)
        return place(source, path)

    monkeypatch.setattr(make_keys, "_place", dying)
    with pytest.raises(KeyboardInterrupt):
        make_keys.make(tmp_path, ["edge-1"])
    monkeypatch.setattr(make_keys, "_place", place)
    make_keys.make(tmp_path, ["edge-1"])
    root = roles.parsed(keys.load_offline(tmp_path).root, Root)
    publisher = keys.load_private(tmp_path, keys.PUBLISHER).verify_key
    assert roles.named_keys(root)[keys.PUBLISHER].verify_key() == publisher


def test_offline_keys_that_were_taken_away_are_not_made_again(tmp_path: Path) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    shutil.rmtree(tmp_path / "offline")
    assert make_keys.make(tmp_path, ["edge-1"]) == []


@pytest.mark.parametrize("lost", ["private/publisher.key", "edges/edge-1.key"])
def test_a_lost_private_key_is_not_replaced_beside_its_public_one(tmp_path: Path, lost: str) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    (tmp_path / lost).unlink()
    with pytest.raises(Unavailable, match="is lost"):
        make_keys.make(tmp_path, ["edge-1"])


def test_keys_on_a_volume_of_somebody_else_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "edges").write_text("a file where a directory belongs")
    with pytest.raises(Unavailable, match="cannot write"):
        make_keys.make(tmp_path, ["edge-1"])


def urls(to: Path) -> dict[str, str]:
    return {user: (to / folder / "broker.url").read_text() for user, folder in make_keys.ADDRESSES.items()}


def test_everybody_gets_its_own_password_of_the_broker_and_the_broker_hashes_alone(tmp_path: Path) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    make_keys.make_users(tmp_path, "redis://broker:6379")
    assert all(url.startswith(f"redis://{user}:") for user, url in urls(tmp_path).items())
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("broker.url")} == {0o600}
    listed = tmp_path / "users" / "users.acl"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o644
    assert not [url for url in urls(tmp_path).values() if url.split(":")[2].split("@")[0] in listed.read_text()]
    assert make_keys.make_users(tmp_path, "redis://broker:6379") == []
    assert make_keys.make(tmp_path, ["edge-1"]) == []


def test_what_was_rotated_is_handed_on_and_nothing_else(tmp_path: Path) -> None:
    make_keys.make_users(tmp_path, "redis://broker:6379")
    before = urls(tmp_path)
    access.rotate(tmp_path / "broker", "edge")
    written = make_keys.make_users(tmp_path, "redis://broker:6379")
    assert written == [tmp_path / "edges" / "broker.url", tmp_path / "users" / "users.acl"]
    assert {user for user, url in urls(tmp_path).items() if url != before[user]} == {"edge"}


@pytest.mark.parametrize("user", make_keys.ADDRESSES)
def test_an_address_that_was_taken_away_leaves_what_was_handed_on(tmp_path: Path, user: str) -> None:
    make_keys.make_users(tmp_path, "redis://broker:6379")
    before = urls(tmp_path)
    access.url_path(tmp_path / "broker", user).unlink()
    assert make_keys.make_users(tmp_path, "redis://broker:6379") == []
    assert urls(tmp_path) == before


def test_an_address_that_was_taken_away_altogether_is_not_made_again(tmp_path: Path) -> None:
    make_keys.make_users(tmp_path, "redis://broker:6379")
    access.url_path(tmp_path / "broker", "edge").unlink()
    (tmp_path / "edges" / "broker.url").unlink()
    assert make_keys.make_users(tmp_path, "redis://broker:6379") == []


def test_a_lost_address_of_the_edges_is_made_again_from_their_own(tmp_path: Path) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    make_keys.make_users(tmp_path, "redis://broker:6379")
    before = urls(tmp_path)
    (tmp_path / "edges" / "broker.url").unlink()
    assert make_keys.make(tmp_path, ["edge-1"]) == []
    make_keys.make_users(tmp_path, "redis://broker:6379")
    assert urls(tmp_path) == before


def test_names_are_those_with_a_key_in_the_order_of_their_numbers(home: Path) -> None:
    assert claim_node.names(home) == list(NODES)


def test_a_name_that_was_disowned_is_nobody_s(home: Path) -> None:
    keys.disown(home, "edge-2")
    assert claim_node.names(home) == ["edge-1", "edge-10"]


def test_where_every_name_was_disowned_the_error_says_so(home: Path) -> None:
    for name in NODES:
        keys.disown(home, name)
    with pytest.raises(Unavailable, match=r"each of the 3 names with a key in .* was disowned: raise --edges"):
        claim_node.names(home)


def test_without_any_key_the_error_says_who_makes_them(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"make_keys\.py"):
        claim_node.names(tmp_path)


def test_two_replicas_never_get_one_name(home: Path, held: Callable[[int], None]) -> None:
    claimed = [claim_node.claim(home, NODES) for _ in NODES]
    for _, handle in claimed:
        held(handle)
    assert [name for name, _ in claimed] == list(NODES)
    with pytest.raises(Unavailable, match="all 3 names are taken"):
        claim_node.claim(home, NODES)


def test_a_name_is_free_again_when_its_holder_has_died(home: Path, held: Callable[[int], None]) -> None:
    first, handle = claim_node.claim(home, NODES)
    held(claim_node.claim(home, NODES)[1])
    os.close(handle)  # what the kernel does for a process that ends, however it ends
    again, handle = claim_node.claim(home, NODES)
    held(handle)
    assert again == first


def test_state_that_cannot_be_written_is_one_clear_error(home: Path) -> None:
    (home / "edges").write_text("a file where a directory belongs")
    with pytest.raises(Unavailable, match="cannot write"):
        claim_node.claim(home, NODES)


def test_the_name_and_its_lock_go_over_to_the_process_that_becomes_the_edge(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "claim.py"
    become = "import os; print(os.environ['QIG_NODE'], flush=True); input()"
    script.write_text(f"from deploy import claim_node\nclaim_node.EDGE = ('-c', {become!r})\nclaim_node.main()\n")
    root = Path(__file__).parents[2]
    env = {"QIG_HOME": str(home), "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as edge:
        assert edge.stdout.readline() == b"edge-1\n"
        with (home / "edges" / "edge-1.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        edge.communicate(b"\n")
