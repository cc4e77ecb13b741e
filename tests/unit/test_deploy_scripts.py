"""The images' own scripts: keys that go where they belong, and names that no two edges share."""

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import Unavailable
from common.runtime import keys
from deploy import check_ready, claim_node, make_keys

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
    for private, public in (("publisher/publisher.key", "publisher.pub"), ("edges/edge-1.key", "edges/edge-1.pub")):
        seed = keys.SigningKey(bytes.fromhex((tmp_path / private).read_text()))
        assert seed.verify_key == keys.load_public(tmp_path / "trust" / public)
        assert stat.S_IMODE((tmp_path / private).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "publisher").iterdir()] == ["publisher.key"]
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


@pytest.mark.parametrize("lost", ["publisher/publisher.key", "edges/edge-1.key"])
def test_a_lost_private_key_is_not_replaced_beside_its_public_one(tmp_path: Path, lost: str) -> None:
    make_keys.make(tmp_path, ["edge-1"])
    (tmp_path / lost).unlink()
    with pytest.raises(Unavailable, match="is lost"):
        make_keys.make(tmp_path, ["edge-1"])


def test_keys_on_a_volume_of_somebody_else_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "publisher").write_text("a file where a directory belongs")
    with pytest.raises(Unavailable, match="cannot write"):
        make_keys.make(tmp_path, ["edge-1"])


def test_names_are_those_with_a_key_in_the_order_of_their_numbers(home: Path) -> None:
    assert claim_node.names(home) == list(NODES)


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


def test_health_without_anybody_listening_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QIG_HTTP_PORT", "1")
    with pytest.raises(SystemExit, match="nothing answers on port 1"):
        check_ready.main()
