"""A job's parts in chunks: whole again or not at all, and never more than a message holds."""

import dataclasses
import json

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from jobs import batch_of, job_of

from common.errors import Corrupt, Rejected
from common.wire.bundle import part_of
from common.wire.codec import unpack
from services.trainer import job
from services.trainer.job import CHUNK_BYTES, LOAD_BYTES, Refused, Reply, Request, cut, joined, load, names


@pytest.mark.parametrize(
    ("size", "chunks"), [(0, 0), (1, 1), (CHUNK_BYTES - 1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2)]
)
def test_a_part_of_any_size_is_cut_and_joined_again(size, chunks):
    data = bytes(size)
    part = part_of(data)
    packed = cut(part, data)
    assert list(packed) == names(part) == [f"{part.digest}:{index}" for index in range(chunks)]
    assert joined(part, list(packed.values())) == data


@pytest.mark.parametrize(
    "packed",
    [
        [],
        [b"no frame"],
        [zstandard.ZstdCompressor().compress(b"other")],
        [zstandard.ZstdCompressor().compress(bytes(CHUNK_BYTES + 1))],
    ],
)
def test_chunks_that_are_not_what_the_digest_promised_are_corrupt(packed):
    with pytest.raises(Corrupt, match="part_digest"):
        joined(part_of(b"some part"), packed)


def test_what_unpacks_to_more_than_it_may_is_not_unpacked(monkeypatch):
    bomb = zstandard.ZstdCompressor().compress(bytes(CHUNK_BYTES + 1))
    monkeypatch.setattr(zstandard, "ZstdDecompressor", None)
    with pytest.raises(Corrupt, match="unpacks to more"):
        joined(part_of(b""), [bomb])


@given(st.lists(st.integers(1, 2 * LOAD_BYTES // 3), max_size=8))
def test_a_load_is_the_first_chunks_that_fit_and_one_at_least(sizes):
    chunks = [(f"{'0' * 64}:{index}", bytes(size)) for index, size in enumerate(sizes)]
    found = load(chunks)
    assert list(found.items()) == chunks[: len(found)]
    assert len(found) >= min(1, len(chunks))
    assert sum(map(len, found.values())) <= LOAD_BYTES
    if len(found) < len(chunks):
        assert sum(sizes[: len(found) + 1]) > LOAD_BYTES


def test_a_chunk_that_does_not_compress_and_the_largest_batch_fit_into_one_request(micro_parts, small_text):
    data = np.random.default_rng(1).bytes(CHUNK_BYTES)
    asked = job_of(micro_parts, small_text, batch_of(1)).model_copy(update={"batch": bytes(1 << 20)})
    request = Request(job=asked, chunks=load(cut(part_of(data), data).items()))
    body = json.dumps(request.model_dump(mode="json")).encode()
    assert len(body) < job.JSON_MAX_BYTES
    assert unpack(Request, body) == request


def test_a_job_s_name_is_all_that_it_says(micro_parts, small_text):
    asked = job_of(micro_parts, small_text, batch_of(1))
    again = job_of(micro_parts, small_text, batch_of(1))
    assert asked.name == again.name
    others = [
        job_of(micro_parts, small_text, batch_of(2)),
        job_of(micro_parts | {"homes.npy": b"other"}, small_text, batch_of(1)),
        *(asked.model_copy(update=change) for change in ({"steps": 1}, {"seed": 1}, {"held_back": ("00",)})),
    ]
    assert len({asked.name, *(each.name for each in others)}) == 1 + len(others)


def test_the_digest_of_a_text_changes_with_any_of_its_texts(small_text):
    for role, split in small_text.corpora.items():
        other = dataclasses.replace(split, held_out=split.held_out[:-1])
        changed = dataclasses.replace(small_text, corpora={**small_text.corpora, role: other})
        assert changed.digest != small_text.digest


@pytest.mark.parametrize(("corrupt", "kind"), [(False, Rejected), (True, Corrupt)])
def test_a_refusal_is_the_error_that_it_was(corrupt, kind):
    reply = unpack(
        Reply, Reply(refused=Refused(code="bad_batch", reason="so", corrupt=corrupt)).model_dump_json().encode()
    )
    assert isinstance(reply.refused.error(), kind)
    assert str(reply.refused.error()) == "bad_batch: so"


@pytest.mark.parametrize("name", ["0" * 63 + ":0", "../../etc/passwd", "0" * 64, "0" * 64 + ":x", "0" * 64 + ":0/.."])
def test_a_chunk_s_name_is_a_digest_and_a_number_and_nothing_else(name):
    with pytest.raises(Rejected):
        unpack(Request, json.dumps({"wanted": [name]}).encode())
