import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from common.coordizer import merges as loop_
from common.coordizer.artifacts import FIRST_MERGE, VOCAB_MAX, printable, token_bytes
from common.coordizer.train import train, train_words
from common.coordizer.words import PATTERN, read_words
from common.errors import Rejected
from common.geometry.simplex import slerp

TEXT = "the cat sat on the mat, then the other cat ate the thin rat; that is that. aaaa aaaaa aaa banana bandana\n"
STREAMS = {  # notes of the reference's own equivalence tests, with the merges they ask for
    "runs": (b"a" * 50 + b" " + b"a" * 31 + b"baaab" * 7, 30),
    "text": (TEXT.encode() * 4, 120),
    "mirror": ((bytes([3, 1, 2, 0, 0, 2, 1, 3]) + b" ") * 200, 40),
}


def basins(seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(64), 256)


def begin(words, merges, amplitude=None, lam=0.5):
    raw = np.frombuffer(b"".join(words), np.uint8)
    lengths, counts = np.array([len(w) for w in words]), np.array(list(words.values()))
    loop = loop_.start(raw, lengths, counts, np.sqrt(basins()) if amplitude is None else amplitude, merges)
    loop_.fill(loop, lam, 2)
    return loop


def learn(words, merges, lam=0.5):
    loop = begin(words, merges, lam=lam)
    loop_.advance(loop, merges, lam, 2)
    return [tuple(pair) for pair in loop.merges[: loop.used[loop_.MERGES]].tolist()]


def count_pairs(words):
    pairs = Counter()
    for word, count in words:
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def replace(word, pair, new):
    out = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] = new
        else:
            out.append(symbol)
    return out


def distance(a, b):
    return loop_._distance.py_func(np.array([a, b]), 0, 1)


def midpoint(a, b, share):
    angle = distance(a, b) / 2
    if angle <= 1e-6:
        return (1 - share) * a + share * b
    return np.sin((1 - share) * angle) / np.sin(angle) * a + np.sin(share * angle) / np.sin(angle) * b


def oracle(words, merges, lam):
    """The definition, recounted from nothing at every merge."""
    segments, s, strings = (
        [(list(w), c) for w, c in words.items()],
        list(np.sqrt(basins())),
        [bytes([b]) for b in range(256)],
    )
    done = []
    while len(done) < merges:
        totals = Counter()
        for word, count in segments:
            totals.update({symbol: n * count for symbol, n in Counter(word).items()})
        scored = [
            (-count * np.exp(-lam * distance(s[a], s[b])), (a, b))
            for (a, b), count in count_pairs(segments).items()
            if count >= 2 and strings[a] + strings[b] not in strings
        ]
        if not scored:
            break
        left, right = min(scored)[1]
        share = totals[right] / (totals[left] + totals[right])
        s.append(midpoint(s[left], s[right], share))
        strings.append(strings[left] + strings[right])
        segments = [(replace(word, (left, right), 256 + len(done)), count) for word, count in segments]
        done.append((left, right))
    return done


@pytest.mark.parametrize("lam", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", STREAMS)
def test_merges_equal_those_of_the_naive_definition(name, lam):
    stream, wanted = STREAMS[name]
    words = Counter(stream.split(b"\n"))
    del words[b""]
    assert learn(words, wanted, lam) == oracle(words, wanted, lam)


@pytest.mark.parametrize("name", STREAMS)
def test_pair_counts_equal_a_recount_after_each_merge(name):
    stream, wanted = STREAMS[name]
    loop = begin({stream: 1}, wanted)
    for merge in range(1, wanted + 1):
        loop_.advance(loop, merge, 0.5, 2)
        kept = {divmod(int(loop.pair[i]), 1 << 32): int(loop.counts[i]) for i in range(loop.used[0])}
        word = [int(symbol) for symbol in loop.symbol if symbol != loop_.NOTHING]
        assert {pair: count for pair, count in kept.items() if count} == count_pairs([(word, 1)])


def hugging_face(texts, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def noise_texts():
    rng = np.random.default_rng(3)
    alphabet = np.array(list("abcé日\x00\xad ¡ \n'1"))
    return ["".join(rng.choice(alphabet, 400)) for _ in range(20)] + [TEXT]


def test_without_geometry_merges_equal_hugging_face_and_ties_go_to_the_smaller_pair_in_gpt2_byte_order():
    texts = noise_texts()
    learned = train(texts, vocab_size=FIRST_MERGE + 600, lam=0.0).merges
    table = token_bytes(learned)
    assert [(printable(table[a]), printable(table[b])) for a, b in learned.tolist()] == hugging_face(texts, 856)


def test_of_equal_scores_the_smallest_pair_wins():
    words = {bytes(pair): 4 for pair in [(5, 3), (3, 5), (9, 1), (2, 2)]}
    assert learn(words, 1, lam=0.0) == [(2, 2)]


def test_a_strict_maximum_wins_over_a_smaller_pair():
    words = {bytes(pair): 4 for pair in [(5, 3), (3, 5), (2, 2)]} | {bytes((9, 1)): 5}
    assert learn(words, 1, lam=0.0) == [(9, 1)]


def test_geometry_lets_the_nearer_pair_of_equal_counts_win():
    near = basins()
    near[ord("z")] = near[ord("y")]
    loop = begin({b"ab": 9, b"yz": 9}, 1, np.sqrt(near), lam=0.5)
    loop_.advance(loop, 1, 0.5, 2)
    assert loop.merges[0].tolist() == [ord("y"), ord("z")]


def test_a_merged_token_starts_at_the_count_weighted_geodesic_midpoint():
    loop = begin({b"th": 3, b"h": 6}, 1)
    loop_.advance(loop, 1, 0.5, 2)
    expected = slerp(basins()[ord("t")], basins()[ord("h")], 9 / 12)
    assert np.square(loop.amplitude[256]) == pytest.approx(expected, abs=1e-12)


def test_a_weighted_word_counts_like_its_repetitions():
    repeated = train([" banana" * 3 + " bandana" * 2], vocab_size=300)
    apart = train([" banana"] * 3 + [" bandana"] * 2, vocab_size=300)
    assert repeated.merges.tolist() == apart.merges.tolist()


def test_the_order_of_the_texts_changes_nothing():
    texts = noise_texts()
    one, other = train(texts, vocab_size=500), train(texts[::-1], vocab_size=500)
    assert one.merges.tolist() == other.merges.tolist()
    assert one.midpoints.tolist() == other.midpoints.tolist()


@pytest.mark.parametrize("lam", [0.0, 0.5])
@pytest.mark.parametrize("kept", [0, 1, 37, 150])
def test_training_resumed_from_a_checkpoint_ends_in_the_same_bits(lam, kept):
    words = read_words(noise_texts())
    whole = train_words(words, vocab_size=500, lam=lam)
    resumed = train_words(words, vocab_size=500, lam=lam, start=whole.merges[:kept].copy())
    assert resumed.merges.tolist() == whole.merges.tolist()
    assert resumed.midpoints.tolist() == whole.midpoints.tolist()
    assert resumed.tokens.tolist() == whole.tokens.tolist()


def test_a_checkpoint_sees_a_prefix_of_the_merges_with_their_midpoints():
    seen = []
    words = read_words(noise_texts())
    whole = train_words(
        words, vocab_size=500, checkpoint=lambda done, now: seen.append((done, now().merges, now().midpoints))
    )
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    for _, merges, midpoints in seen[:: len(seen) // 4]:
        assert merges.tolist() == whole.merges[: len(merges)].tolist()
        assert midpoints.tolist() == whole.midpoints[: len(midpoints)].tolist()


def test_merges_that_name_no_token_cannot_be_resumed_from():
    with pytest.raises(Rejected, match="bad_merges"):
        train_words(read_words(["a b"]), vocab_size=300, start=np.array([[300, 1]], np.int32))


def test_training_stops_when_no_pair_occurs_twice():
    assert train(["abcdefg"], vocab_size=300).merges.tolist() == []
    assert train([], vocab_size=300).merges.shape == (0, 2)


def test_a_pair_is_merged_from_two_occurrences_on():
    assert len(train(["ab"], vocab_size=300).merges) == 0
    assert len(train(["ab", "ab"], vocab_size=300).merges) == 1


def test_no_string_gets_two_ids():
    learned = train(["a" * n for n in range(1, 64)] * 3, vocab_size=400).merges
    table = token_bytes(learned)[FIRST_MERGE:]
    assert len(set(table)) == len(table)


@pytest.mark.parametrize(
    ("size", "fine"), [(FIRST_MERGE - 1, False), (FIRST_MERGE, True), (VOCAB_MAX, True), (VOCAB_MAX + 1, False)]
)
def test_vocabulary_sizes_outside_their_bounds_are_rejected(size, fine):
    if fine:
        assert len(train([TEXT], vocab_size=size).midpoints) <= size
    else:
        with pytest.raises(Rejected, match="vocab_size"):
            train([TEXT], vocab_size=size)


def test_progress_rises_to_one():
    shares = []
    train([TEXT], vocab_size=FIRST_MERGE + 20, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
