"""The same tokenizer for other people's loaders: Hugging Face's tokenizer.json and tiktoken's rank file.

Both give our ids on any text. One difference is theirs: Hugging Face turns a special token's name inside a text into
the special token, where we, and tiktoken's encode_ordinary, read it as text.
"""

import base64
import json
from typing import Any

from common.coordizer.artifacts import SPECIALS, Coordizer, printable, token_bytes, vocabulary
from common.coordizer.words import PATTERN


def tokenizer_json(coordizer: Coordizer) -> bytes:
    """tokenizer.json as `tokenizers.Tokenizer.from_file` and transformers read it."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, number) for name, number in SPECIALS.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": _model(coordizer),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def tiktoken_ranks(coordizer: Coordizer) -> bytes:
    """A line a token, base64 and id, as `tiktoken.load.load_tiktoken_bpe` reads it; special tokens are not in it."""
    table = enumerate(token_bytes(coordizer.merges))
    return b"".join(b"%s %d\n" % (base64.b64encode(token), number) for number, token in table if token)


def _added(name: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, **flags, "special": True}


def _model(coordizer: Coordizer) -> dict[str, Any]:
    forms = [printable(token) for token in token_bytes(coordizer.merges)]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary(coordizer.merges),
        "merges": [[forms[left], forms[right]] for left, right in coordizer.merges.tolist()],
    }
