"""The running estimator is the windowed one, and forgets at the rate it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.geometry import online
from common.geometry.integration import centred, integration, moments
from common.geometry.online import EMPTY, close, push, read


def walk(seed, tokens):
    """A coupled walk that wanders far from zero: centring matters."""
    rng, x = np.random.default_rng(seed), np.zeros((tokens, 8))
    for t in range(1, tokens):
        x[t] = 0.6 * np.roll(x[t - 1], 1) + 0.3 * x[t - 1] + 0.1 * rng.normal(size=8)
    return x + rng.normal(size=8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 12))
def test_whole_windows_read_what_the_windowed_estimator_reads(seed, windows):
    x = walk(seed, windows * 128)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online, "HALF_LIFE", math.inf)
        running = read(push(EMPTY, x, window=128))
    known = integration(moments(centred(x.reshape(windows, 128, 8))))
    assert running.n == known.n
    assert running.phi_g_nats == pytest.approx(known.phi_g_nats, rel=1e-9)


@pytest.mark.parametrize("cut", [1, 17, 128, 700])
def test_tokens_may_come_one_by_one_or_in_any_pieces(cut):
    x = walk(3, 900)
    pieces = push(push(EMPTY, x[:cut], window=128), x[cut:], window=128)
    assert read(pieces).phi == pytest.approx(read(push(EMPTY, x, window=128)).phi, abs=1e-12)


@pytest.mark.parametrize(("tokens", "known"), [(512, False), (513, True)])
def test_phi_is_not_known_below_512_transitions(tokens, known):
    found = read(push(EMPTY, walk(4, tokens), window=1000))
    assert found.n == tokens - 1
    assert (found.phi is not None) is known


@pytest.mark.parametrize(("tokens", "kept"), [(15, 0.0), (16, 15.0), (17, 16.0)])
def test_a_text_too_short_to_centre_leaves_nothing(tokens, kept):
    assert close(push(EMPTY, walk(5, tokens), window=128)).past.n == kept


def test_no_transition_leads_from_one_text_to_the_next():
    x = walk(6, 80)
    apart = push(close(push(EMPTY, x[:40], window=128)), x[40:], window=128)
    assert read(apart).n == pytest.approx(39 * 0.5 ** (39 / online.HALF_LIFE) + 39)


def test_after_a_half_life_the_past_counts_half():
    old = close(push(EMPTY, walk(7, 512), window=512))
    fresh = int(online.HALF_LIFE)
    new = push(old, walk(8, fresh + 1), window=fresh + 2)
    assert read(new).n == pytest.approx(511 / 2 + fresh)


def test_a_stream_whose_coupling_ends_reads_less_and_less():
    rng = np.random.default_rng(9)
    stream = push(EMPTY, walk(9, 4096), window=128)
    readings = [read(stream).phi]
    for _ in range(3):
        stream = push(stream, rng.normal(size=(8192, 8)) * 0.2, window=128)
        readings.append(read(stream).phi)
    assert readings == sorted(readings, reverse=True)
    assert readings[0] > 0.7
    assert readings[-1] < 0.1
