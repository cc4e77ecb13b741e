import functools
import json
import time
from itertools import pairwise

import numpy as np
import pytest
import regex
import tiktoken
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from common.coordizer import export
from common.coordizer.artifacts import BOS, EOS, PAD, Coordizer, Provenance, token_bytes
from common.coordizer.basins import distinct
from common.coordizer.encode import Encoder, StreamDecoder
from common.coordizer.train import train
from common.coordizer.words import PATTERN
from common.errors import Rejected

TEXT = (
    "The cat's hat, it'll fit; they've 1234 cats and 日本語の猫 née Zoë.\n\n  The end --- aaaaaaa bababab \x00\x00.\n"
)
LETTERS = st.text(alphabet=st.sampled_from("abthe \n\t.,'s1日é\x00\U0001f600\u0301"), max_size=200)


LAMBDAS = (0.0, 0.5)


@functools.cache
def coordizer(lam=0.5):
    learned = train([TEXT * 3, TEXT[::-1], "banana bandana " * 9], vocab_size=420, lam=lam)
    return Coordizer(learned.merges, distinct(learned.midpoints), lam, Provenance("", {}, {}, 0))


@functools.cache
def encoder(lam=0.5):
    return Encoder(coordizer(lam))


@functools.cache
def theirs(lam=0.5):
    return Tokenizer.from_str(export.tokenizer_json(coordizer(lam)).decode())


def by_rank(text, merges):
    """The definition: in each word join the pair of the lowest rank, until there is none."""
    rank = {tuple(pair): number for number, pair in enumerate(merges.tolist())}
    ids = []
    for word in regex.findall(PATTERN, text):
        symbols = list(word.encode())
        while pairs := [(rank[p], i) for i, p in enumerate(pairwise(symbols)) if p in rank]:
            best, at = min(pairs)
            symbols[at : at + 2] = [259 + best]
        ids += symbols
    return ids


@settings(max_examples=80, deadline=None)
@given(LETTERS)
@pytest.mark.parametrize("lam", LAMBDAS)
def test_ids_are_those_of_the_merges_in_the_order_of_their_ranks(lam, text):
    assert encoder(lam).encode(text).tolist() == by_rank(text, coordizer(lam).merges)


@settings(max_examples=80, deadline=None)
@given(LETTERS)
@pytest.mark.parametrize("lam", LAMBDAS)
def test_hugging_face_gives_equal_ids_and_text(lam, text):
    ids = theirs(lam).encode(text, add_special_tokens=False).ids
    assert ids == encoder(lam).encode(text).tolist()
    assert theirs(lam).decode(ids) == text


def test_tiktoken_gives_equal_ids_from_our_rank_file(tmp_path):
    file = tmp_path / "qig.tiktoken"
    file.write_bytes(export.tiktoken_ranks(coordizer()))
    ranks = tiktoken.load.load_tiktoken_bpe(str(file))
    other = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert other.encode_ordinary(TEXT) == encoder().encode(TEXT).tolist()


def test_special_tokens_of_the_export_have_our_ids():
    assert [theirs().token_to_id(name) for name in ("<|bos|>", "<|eos|>", "<|pad|>")] == [BOS, EOS, PAD]
    assert len(json.loads(export.tokenizer_json(coordizer()))["model"]["vocab"]) == encoder().vocab_size


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_comes_back(text):
    assert encoder().decode(encoder().encode(text)) == text.encode()


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=200) | st.lists(st.sampled_from([b"the", b"\xe6\x97", b"\xff", b"\xed\xa0\x80"])).map(b"".join)
)
def test_any_bytes_come_back(raw):
    assert encoder().decode(encoder().encode_bytes(raw)) == raw


@pytest.mark.parametrize(
    "text", ["", "\x00", "\x00" * 500, "a", " ", "\ufeff", "\u1112\u1161\u11ab", "\u2126", "ne\u0301e"]
)
def test_awkward_texts_come_back(text):
    ids = encoder().encode(text)
    assert ids.dtype == np.int32
    assert encoder().decode(ids) == text.encode()


def test_bytes_that_are_text_get_the_text_s_ids():
    assert encoder().encode_bytes(TEXT.encode()).tolist() == encoder().encode(TEXT).tolist()


@pytest.mark.parametrize("text", ["\ud800", "ok\udfff", "\ude00\ud83d"])
def test_a_lone_surrogate_is_rejected(text):
    with pytest.raises(Rejected, match="lone_surrogate"):
        encoder().encode(text)


@pytest.mark.parametrize("text", ["<|bos|>", "<|eos|><|pad|>"])
def test_no_text_forges_a_special_token(text):
    ids = encoder().encode(text)
    assert ids.tolist() == by_rank(text, coordizer().merges)
    assert not np.isin(ids, [BOS, EOS, PAD]).any()


def test_special_tokens_decode_to_nothing():
    assert encoder().decode([BOS, 97, EOS, PAD]) == b"a"


def test_an_id_outside_the_vocabulary_is_rejected():
    for number in (-1, encoder().vocab_size):
        with pytest.raises(Rejected, match=f"unknown_token: id {number} "):
            encoder().decode([97, number])


def test_the_last_id_of_the_vocabulary_decodes():
    assert encoder().decode(np.array([encoder().vocab_size - 1])) == token_bytes(coordizer().merges)[-1]


@pytest.mark.parametrize("character", ["a", " ", "\n", "日", "!", "\x00", "7"])
def test_time_is_linear_in_a_text_without_a_break(character):
    took = {}
    assert encoder().encode("a").tolist() == [97]  # it is made and compiled
    for length in (20_000, 200_000):
        started = time.process_time()
        ids = encoder().encode(character * length)
        took[length] = time.process_time() - started
        assert encoder().decode(ids) == (character * length).encode()
    assert took[200_000] < 40 * took[20_000] + 0.05  # a square would be 100 times


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_batch_is_its_texts_in_order_whatever_the_threads(threads):
    texts = [TEXT[n:] for n in range(20)] + [""]
    batch = encoder().encode_batch(texts, threads)
    assert [ids.tolist() for ids in batch] == [encoder().encode(text).tolist() for text in texts]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_a_stream_never_emits_half_a_character(text):
    decoder = StreamDecoder(encoder())
    said = [decoder.push([byte]) for byte in text.encode()]
    assert "".join(said) + decoder.finish() == text
    assert "\ufffd" not in "".join(said).replace("\ufffd", "", text.count("\ufffd"))


def test_a_stream_cut_inside_a_character_says_so_at_its_end():
    decoder = StreamDecoder(encoder())
    assert decoder.push([0xE6, 0x97]) == ""
    assert decoder.finish() == "\ufffd"


def test_encoders_of_equal_merges_share_what_takes_long_to_make_and_others_do_not():
    again = Encoder(coordizer().merges.copy())
    assert again._tiktoken is encoder()._tiktoken
    shorter = Encoder(coordizer().merges[:-1])
    assert (shorter.vocab_size, shorter.encode(TEXT[:9]).max() < shorter.vocab_size) == (again.vocab_size - 1, True)
