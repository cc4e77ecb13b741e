"""Claim: what an edge counted once of one client's text, another client does not get recited whole.

Eight common words in a sentence of their own are counted, some times, beside 20 KB of scripture, into an edge's local
memory. Somebody who knows the sentence and the first three words has the likeliest token each time from the very domain
that counted it: how often comes the fourth word, and how often all five that are left. The peer is the same memory with
only what was counted at least twice.

    python benchmarks/recital.py [FOLDER OF A GENESIS]        default data/genesis
"""

import json

import numpy as np
from local import DATA, at_least, named_genesis

from common.kernels.memory import count
from services.edge.local import TERRITORY, open_new
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

CLAIM = "five words that follow on three known ones, counted once, are recited in no case"
SENTENCE = "I tell you in confidence that the word is"
WORDS = (
    "river", "stone", "window", "copper", "garden", "silver", "ladder", "candle", "winter", "harbour",
    "pepper", "basket", "thunder", "mirror", "anchor", "velvet", "needle", "orchard", "puzzle", "lantern",
    "saddle", "marble", "whistle", "feather", "cotton", "barrel", "hammer", "meadow", "pocket", "ribbon",
)  # fmt: skip
CASES, SECRET, KNOWN, TIMES = 30, 8, 3, (1, 2, 5)


def main() -> None:
    bundle = named_genesis()
    texts = [each.text for each in split(documents("unseen/scripture", root=DATA)).train][:10]
    for times in TIMES:
        (fourth, whole), (peer_fourth, peer_whole) = (_recited(bundle, texts, times, least) for least in (1, 2))
        for name, value, peer in (("the fourth word", fourth, peer_fourth), ("all five", whole, peer_whole)):
            line = {"claim": CLAIM, "case": f"{name}, counted {times} times", "value": value, "unit": f"of {CASES}"}
            ratio = round(value / peer, 4) if peer else None
            print(json.dumps({**line, "peer": "counted twice", "peer_value": peer, "ratio": ratio}), flush=True)


def _recited(bundle, texts, times, least) -> tuple[int, int]:
    ids = [bundle.encoder.encode(each) for each in texts]
    basin = bundle.basin(np.concatenate(ids))
    fourth = whole = 0
    for case in range(CASES):
        secret = np.random.default_rng(case).choice(WORDS, SECRET, replace=False).tolist()
        told = bundle.encoder.encode(f"{SENTENCE} {' '.join(secret)}.")
        local = open_new(bundle, at_least(count([*ids, *[told] * times], 3), least), None, basin)
        asked = bundle.encoder.encode(f"{SENTENCE} {' '.join(secret[:KNOWN])}")
        rng = np.random.default_rng(0)
        steps = local.speak(asked, {TERRITORY: 1.0}, max_tokens=24, temperature=0.0, rng=rng)
        said = bundle.encoder.decode(np.array([step.token for step in steps], np.int32)).decode("utf-8", "replace")
        found = [word.strip(".,") for word in said.split()]
        fourth += found[:1] == secret[KNOWN : KNOWN + 1]
        whole += found[: SECRET - KNOWN] == secret[KNOWN:]
    return fourth, whole


if __name__ == "__main__":
    main()
