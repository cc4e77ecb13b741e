import itertools
import os
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from common.errors import Corrupt, Unavailable
from common.wire.bundle import digest, part_of, sign
from common.wire.messages import Candidate, Evidence
from services.edge import slots as module
from services.edge.slots import Slots
from services.edge.standing import Left, Standing

KEY = SigningKey(bytes(32))
INSTALL_STEPS = 28  # touches of the disk while a bundle of one part is installed and proves good


def bundle(version, **files):
    parts = {path: part_of(data) for path, data in files.items()}
    candidate = Candidate(
        id=f"c{version}", parent=version - 1, parent_digest="ab" * 32 if version > 1 else "", parts=parts,
        evidence=Evidence(),
    )  # fmt: skip
    return sign(candidate, version=version, released_at_s=1.0, signing_key=KEY)


def install(slots, version, *, good=True, **files):
    """good: whether it is watched to its end."""
    release = bundle(version, **files)
    for path, data in files.items():
        slots.put(release.parts[path], data)
    slots.activate(release)
    if good:
        slots.approve(digest(release))
    return release


@pytest.fixture
def slots(tmp_path):
    return Slots(tmp_path / "bundles")


class Killed(BaseException):
    """What a kill is to the code it hits: no handler runs, nothing is cleaned up."""


def test_nothing_installed_is_nothing_loaded(slots):
    assert slots.load() is None


def test_what_was_activated_is_loaded_whole(slots):
    release = install(slots, 1, one=b"abc", two=b"defg")
    found = slots.load()
    assert (found.bundle, found.parts, found.passed_over) == (release, {"one": b"abc", "two": b"defg"}, ())


def test_the_newest_activation_is_current_and_the_one_before_is_kept(slots):
    install(slots, 1, one=b"abc")
    install(slots, 2, one=b"xyz")
    assert slots.load().bundle.version == 2
    assert {slot: slots._version(slot) for slot in "ab"} == {"a": 1, "b": 2}


def test_a_bundle_is_not_activated_before_all_its_parts_are_there(slots):
    install(slots, 1, one=b"abc")
    with pytest.raises(Unavailable, match="part_missing"):
        slots.activate(bundle(2, one=b"abc", two=b"new"))
    assert slots.load().bundle.version == 1


def test_bytes_that_are_not_the_part_are_not_kept(slots):
    with pytest.raises(Corrupt, match="part_digest"):
        slots.put(part_of(b"right"), b"wrong")
    assert not slots.has(part_of(b"right"))


def test_a_shared_part_is_kept_once_and_not_fetched_again(slots):
    install(slots, 1, one=b"same", two=b"old")
    assert slots.has(part_of(b"same"))
    install(slots, 2, one=b"same", two=b"new")
    assert len(list((slots.root / "parts").iterdir())) == 3


def test_parts_that_no_slot_names_are_collected(slots):
    for version in range(1, 5):
        install(slots, version, one=b"%d" % version)
    assert sorted(p.read_bytes() for p in (slots.root / "parts").iterdir()) == [b"3", b"4"]


def test_what_an_interrupted_write_left_is_collected(slots):
    install(slots, 1, one=b"abc")
    (slots.root / "parts" / "half.part").write_bytes(b"x")
    assert slots.collect() == 1
    assert slots.load().bundle.version == 1


@pytest.mark.parametrize("victim", ["slot", "part"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_current_slot_is_passed_over_for_the_last_good_one(slots, victim, damage):
    install(slots, 1, one=b"first" * 9)
    newest = install(slots, 2, one=b"second" * 9)
    name = slots.load().slot
    hurt(slots.root / name if victim == "slot" else slots.root / "parts" / newest.parts["one"].digest, damage)
    found = slots.load()
    assert found.bundle.version == 1
    assert (len(found.passed_over) == 1) == (victim == "part" or damage != "delete")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_pointer_leaves_the_higher_version(slots, damage):
    install(slots, 1, one=b"first")
    install(slots, 2, one=b"second")
    hurt(slots.root / "current", damage)
    assert slots.load().bundle.version == 2


def test_a_damaged_part_counts_as_missing_and_is_fetched_again(slots):
    release = install(slots, 1, one=b"abc")
    hurt(slots.root / "parts" / release.parts["one"].digest, "flip")
    assert not slots.has(release.parts["one"])
    slots.put(release.parts["one"], b"abc")
    assert slots.load().bundle == release


def test_after_damage_the_next_bundle_does_not_overwrite_the_last_good_one(slots):
    install(slots, 1, one=b"first")
    install(slots, 2, one=b"second")
    hurt(slots.root / slots.load().slot, "truncate")
    install(slots, 3, one=b"third")
    assert sorted(slots._version(name) for name in "ab") == [1, 3]


def test_both_slots_damaged_is_nothing_and_not_a_crash(slots):
    install(slots, 1, one=b"first")
    install(slots, 2, one=b"second")
    for name in "ab":
        hurt(slots.root / name, "flip")
    assert slots.load() is None


@pytest.mark.parametrize("step", range(INSTALL_STEPS))
def test_a_kill_at_any_step_leaves_a_whole_bundle_old_or_new(slots, monkeypatch, step):
    install(slots, 1, one=b"first")
    kill_at(monkeypatch, step)
    with pytest.raises(Killed):
        install(slots, 2, one=b"second")
    monkeypatch.undo()
    assert slots.load().bundle.version in {1, 2}
    install(slots, 2, one=b"second")
    assert slots.load().bundle.version == 2


def test_the_kills_above_cover_every_step_of_an_installation(slots, monkeypatch):
    install(slots, 1, one=b"first")
    kill_at(monkeypatch, INSTALL_STEPS)
    install(slots, 2, one=b"second")
    monkeypatch.undo()
    assert slots.load().bundle.version == 2


# On trial, good, left


def left(release, reason="why"):
    return Left(digest=digest(release), version=release.version, reason=reason, at_s=9.0)


@pytest.fixture
def on_trial(slots):
    """One bundle that has proved good, and one on trial."""
    return install(slots, 1, one=b"good"), install(slots, 2, good=False, one=b"new")


def test_the_first_bundle_has_nothing_to_go_back_to(slots):
    first = install(slots, 1, good=False, one=b"first")
    assert slots.last_good() is None
    with pytest.raises(Unavailable, match="no_last_good"):
        slots.go_back(left(first))
    assert slots.load().bundle == first


def test_a_bundle_on_trial_serves_and_the_last_good_one_is_kept(slots, on_trial):
    good, new = on_trial
    assert (slots.load().bundle, slots.last_good().bundle) == (new, good)


def test_another_bundle_takes_the_place_of_the_one_on_trial_and_never_of_the_good_one(slots, on_trial):
    good, _ = on_trial
    third = install(slots, 3, good=False, one=b"third")
    assert (slots.load().bundle, slots.last_good().bundle) == (third, good)
    slots.approve(digest(third))
    fourth = install(slots, 4, good=False, one=b"fourth")
    assert (slots.load().bundle, slots.last_good().bundle) == (fourth, third)


def test_what_was_gone_back_from_is_never_loaded_while_anything_else_is_whole(slots, on_trial):
    good, new = on_trial
    assert slots.go_back(left(new)).bundle == good
    assert slots.load().bundle == good
    assert slots.standing.has_left(digest(new))
    (slots.root / "current").write_bytes(b"b")
    assert (slots.load().bundle, slots.load().passed_over) == (good, ())
    for slot in "ab":
        if slots._version(slot) == 1:
            hurt(slots.root / slot, "truncate")
    assert slots.load().bundle == new  # better than nothing


def test_after_going_back_the_next_bundle_replaces_the_one_that_was_left(slots, on_trial):
    good, new = on_trial
    slots.go_back(left(new))
    third = install(slots, 3, good=False, one=b"third")
    assert (slots.load().bundle, slots.last_good().bundle) == (third, good)


def test_the_second_process_in_a_row_that_begins_with_a_bundle_on_trial_goes_back(slots, on_trial):
    good, new = on_trial
    assert slots.boot(now_s=5.0).bundle == new
    assert slots.boot(now_s=6.0).bundle == good
    (told,) = slots.standing.untold
    assert (told.digest, told.version, told.at_s) == (digest(new), 2, 6.0)
    assert told.reason == "2 processes in a row began with it and ended before it had proved good"
    slots.told(digest(new))
    assert slots.standing.untold == ()
    assert slots.boot(now_s=7.0).bundle == good


def test_a_process_that_ended_in_good_order_is_not_counted(slots, on_trial):
    for _ in range(5):
        assert slots.boot(now_s=5.0).bundle == on_trial[1]
        slots.rest()


def test_without_another_whole_bundle_a_process_begins_with_what_there_is(slots, on_trial):
    for slot in "ab":
        if slots._version(slot) == 1:
            hurt(slots.root / slot, "flip")
    assert [slots.boot(now_s=5.0).bundle.version for _ in range(4)] == [2] * 4


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_standing_is_begun_anew_and_what_serves_serves_on(slots, on_trial, damage):
    slots.boot(now_s=5.0)
    hurt(slots.root / "standing", damage)
    assert slots.standing == Standing()
    assert [slots.boot(now_s=5.0).bundle.version for _ in range(4)] == [2] * 4
    third = install(slots, 3, good=False, one=b"third")
    assert (slots.load().bundle, slots.last_good().bundle) == (third, on_trial[1])


def test_slots_of_a_release_that_knew_no_trials_have_their_current_bundle_to_go_back_to(slots):
    install(slots, 1, good=False, one=b"first")
    old = install(slots, 2, good=False, one=b"second")
    (slots.root / "standing").unlink()
    assert slots.boot(now_s=5.0).bundle == old
    new = install(slots, 3, good=False, one=b"third")
    assert slots.go_back(left(new)).bundle == old


# What may be current after a kill at some step, and what after doing it again.
def applied(slots):
    install(slots, 3, good=False, one=b"third", two=b"shared")


def proved(slots):
    slots.approve(digest(bundle(2, one=b"new")))


def gone_back(slots):
    slots.go_back(left(bundle(2, one=b"new")))


def booted(slots):
    slots.boot(now_s=5.0)


def booted_twice(slots):
    slots.boot(now_s=5.0)
    slots.boot(now_s=6.0)


STEPS = [
    (applied, {2, 3}, {3}), (proved, {2}, {2}), (gone_back, {1, 2}, {1}), (booted, {2}, {1, 2}),
    (booted_twice, {1, 2}, {1}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "between", "after"), STEPS)
def test_a_kill_at_each_touch_of_the_disk_boots_a_whole_bundle_and_what_was_left_stays_left(
    tmp_path, monkeypatch, what, between, after
):
    for step in itertools.count():
        slots = Slots(tmp_path / str(step))
        install(slots, 1, one=b"good")
        install(slots, 2, good=False, one=b"new")
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            killed = was_killed(what, slots)
        had_left = slots.standing.has_left(digest(bundle(2, one=b"new")))
        found = slots.load()
        assert (found.bundle.version, found.passed_over) in {(version, ()) for version in between}
        assert found.bundle.version != 2 or not had_left
        assert slots.last_good().bundle.version in {1, 2}
        if had_left:
            assert slots.boot(now_s=7.0).bundle.version == 1
        else:
            what(slots)
            assert slots.load().bundle.version in after
        if not killed:
            break
    assert step > (3 if what in {proved, booted} else 8)


def was_killed(what, slots):
    try:
        what(slots)
    except Killed:
        return True
    return False


def test_a_full_disk_says_so_and_keeps_the_old_bundle(slots, monkeypatch):
    install(slots, 1, one=b"first")
    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(Unavailable, match="disk_full"):
        slots.put(part_of(b"new"), b"new")
    assert slots.load().bundle.version == 1


def test_a_root_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="unwritable"):
        Slots(tmp_path / "file" / "bundles").put(part_of(b"x"), b"x")


def full(handle):
    raise OSError(28, os.strerror(28))


def hurt(path: Path, damage):
    data = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncate" else data[:-1] + bytes([data[-1] ^ 1]))


def kill_at(monkeypatch, step):
    """Every touch of the disk counts down; at zero the process is gone."""
    left = [step]

    def counted(real):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(module.os, "fsync", counted(os.fsync))
    for name in ("open", "replace", "unlink", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
