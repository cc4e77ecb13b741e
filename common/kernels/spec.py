"""The size dial of a kernel: one word sets every dimension."""

from dataclasses import dataclass
from typing import Final, Literal

from common.errors import Rejected

Size = Literal["tiny", "small", "base"]


@dataclass(frozen=True, slots=True)
class Spec:
    """Dimensions of a state decoder. `layers` blocks are applied `loops` times with the same weights.

    vocab: token ids, a prefix of the coordizer's; width: model dimension, divisible by 2*heads; context: tokens a
    window.
    """

    size: str
    vocab: int
    width: int
    layers: int
    loops: int
    heads: int
    context: int

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.loops, self.heads, self.context) < 1:
            raise Rejected("bad_spec", f"a dimension below one in {self}: a state has at least one of each")
        if self.depth > MAX_DEPTH or self.context > MAX_CONTEXT:
            raise Rejected(
                "bad_spec",
                f"{self.depth} block applications over {self.context} tokens in {self}; at most {MAX_DEPTH} and "
                f"{MAX_CONTEXT}: what a token costs is no size of a file, and must be bounded all the same",
            )
        if self.width % (2 * self.heads):
            msg = f"width {self.width} is no multiple of {2 * self.heads}: {self.heads} heads of even size need one"
            raise Rejected("bad_spec", msg)
        if not 0 < self.vocab <= MAX_VOCAB:
            raise Rejected(
                "bad_spec", f"vocabulary of {self.vocab} ids; memories pack ids in 15 bits: 1 to {MAX_VOCAB}"
            )

    @property
    def head_width(self) -> int:
        """Dimension of one attention head."""
        return self.width // self.heads

    @property
    def depth(self) -> int:
        """Block applications a token passes, and so the number of key-value caches."""
        return self.layers * self.loops


MAX_VOCAB: Final = 1 << 15
ORDERS: Final = 4  # of a memory: contexts of 0 to 3 tokens
MAX_DEPTH: Final = 64  # chosen: eight times what `base` has, as is the next
MAX_CONTEXT: Final = 4096

# Chosen from the measurements in docs/experiments.md: applied once, two layers learn as much a step as applied twice.
SIZES: Final[dict[Size, Spec]] = {
    "tiny": Spec("tiny", vocab=2048, width=96, layers=2, loops=1, heads=3, context=128),
    "small": Spec("small", vocab=4096, width=128, layers=2, loops=1, heads=4, context=256),
    "base": Spec("base", vocab=16384, width=384, layers=4, loops=2, heads=6, context=512),
}
