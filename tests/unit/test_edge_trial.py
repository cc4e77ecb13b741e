import numpy as np
import pytest

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.kernels.memory import count, merge
from services.edge import trial
from services.edge.trial import PROBE_MAX_BYTES, PROBE_MIN_BYTES, enough, try_bundle

PROBE = "The sea was cold and grey; salt wind stung our eyes and the whale breathed beside the boat. "


def long_enough(text=PROBE):
    return [text] * (PROBE_MIN_BYTES // len(text) + 1)


def alone(constellation, texts):
    """Bits per byte as a constellation reads texts that has nothing in common with another."""
    read = [constellation.encoder.encode(text) for text in texts]
    places = [constellation.route(constellation.basin(ids)).steps[0].name for ids in read]
    return sum(map(constellation.bits, read, places)) / sum(len(text.encode()) for text in texts)


def with_memory(micro, micro_parts, text, times):
    """Parts whose every role has read `text` so often."""
    grown = {role: merge([micro.memories[role], count([micro.encoder.encode(text)] * times)]) for role in ROLES}
    changed = [bundle_parts.memory_part(role, memory) for role, memory in grown.items()]
    return micro_parts | {path: data for part in changed for path, data in part.items()}


def test_the_same_bundle_passes_and_reads_the_same(micro, micro_parts):
    tried = try_bundle(micro, micro_parts, long_enough())
    assert tried.verdict == "applied"
    assert tried.before == tried.after == pytest.approx(alone(micro, long_enough()))


def test_a_bundle_that_reads_the_probes_better_is_applied(micro, micro_parts):
    new = "And the king spake unto the people. "
    tried = try_bundle(micro, with_memory(micro, micro_parts, new, 9), long_enough(new))
    assert tried.verdict == "applied"
    assert tried.after < tried.before


@pytest.mark.parametrize("changed", ["memories", "a state", "all states"])
def test_what_both_have_is_there_once_and_reads_as_it_would_alone(micro, micro_parts, changed):
    """The probes go to several domains; a state that both have reads them once."""
    roles = {"memories": (), "a state": ("heart",), "all states": ROLES}[changed]
    parts = with_memory(micro, micro_parts, "And the king spake unto the people. ", 3)
    for role in roles:
        state = micro.states[role]
        parts |= bundle_parts.kernel_part(
            role, state.spec, {n: np.asarray(each / 2) for n, each in state.weights.items()}
        )
    probes = [
        PROBE * 9,
        PROBE,
        PROBE,
        "And the king spake unto the people. " * 20,
        "def route(basin): return 3\n" * 20,
        "A " * 400,
    ]
    tried = try_bundle(micro, parts, probes)
    fresh = bundle_parts.load(parts)
    assert (tried.before, tried.after) == (alone(micro, probes), alone(fresh, probes))
    assert {role for role in ROLES if tried.constellation.states[role] is not micro.states[role]} == set(roles)
    assert tried.constellation.encoder is micro.encoder


def test_a_bundle_that_reads_the_probes_worse_is_refused_with_the_figures(micro, micro_parts):
    noise = "".join(map(chr, np.random.default_rng(0).integers(33, 120, 3000)))
    tried = try_bundle(micro, with_memory(micro, micro_parts, noise, 50), long_enough())
    assert tried.verdict == "refused"
    assert f"{tried.after:.4f} bits per byte" in tried.reason
    assert tried.after > tried.before


@pytest.mark.parametrize(("worse", "verdict"), [(0.0099, "applied"), (0.01, "applied"), (0.0101, "refused")])
def test_one_percent_worse_is_the_limit(micro, micro_parts, monkeypatch, worse, verdict):
    monkeypatch.setattr(trial, "bits_per_byte", lambda *_: (2.0, 2.0 * (1 + worse)))
    assert try_bundle(micro, micro_parts, long_enough()).verdict == verdict


def test_a_reading_that_is_no_number_is_refused(micro, micro_parts, monkeypatch):
    monkeypatch.setattr(trial, "bits_per_byte", lambda *_: (2.0, float("nan")))
    tried = try_bundle(micro, micro_parts, long_enough())
    assert (tried.verdict, tried.after) == ("refused", None)


@pytest.mark.parametrize(("size_bytes", "read"), [(PROBE_MIN_BYTES - 1, False), (PROBE_MIN_BYTES, True)])
def test_with_too_little_probe_text_the_gates_are_believed_and_that_is_said(micro, micro_parts, size_bytes, read):
    tried = try_bundle(micro, micro_parts, [(PROBE * 30)[:size_bytes]])
    assert tried.verdict == "applied"
    assert (tried.before is not None) == read
    assert ("publisher's gates" in tried.reason) != read


def test_the_first_bundle_needs_nothing_to_compare_with(micro_parts):
    tried = try_bundle(None, micro_parts, long_enough())
    assert (tried.verdict, tried.before) == ("applied", None)
    assert tried.constellation is not None


@pytest.mark.parametrize("path", ["domains.json", "kernels/heart.safetensors", "memories/vocab.bin", "homes.npy"])
def test_a_bundle_that_does_not_load_is_refused_with_the_part_s_name(micro, micro_parts, path):
    missing = {name: data for name, data in micro_parts.items() if name != path}
    tried = try_bundle(micro, missing, [])
    assert (tried.verdict, tried.constellation) == ("refused", None)
    assert path in tried.reason
    broken = try_bundle(micro, micro_parts | {path: b"\0" * 20}, [])
    assert broken.verdict == "refused"


def test_only_the_newest_probes_are_read(micro):
    texts = [str(number) * 10_000 for number in range(9)]
    assert enough(texts) == texts[: PROBE_MAX_BYTES // 10_000]
