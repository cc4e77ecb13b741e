"""A range coder of whole numbers, compiled: bits that adapt, numbers made of such bits, subsets of a weighted list.

What is coded narrows a range of 32 bits to a part of it, and whenever that has less than 24 bits a byte is settled
(Martin 1979; carries run back into the bytes that are there). A bit's part is its chance, 16 bits, which moves towards
what came, the less the more often it was met: a context that is met for the first time begins where its parent stands,
so that few bits teach many contexts. A subset is coded in ascending order. That the least of `left` members, drawn by
weight, lies at or beyond a place has the probability (weight from there on / whole weight) ^ left, so that the order in
which a set could be told costs nothing.

One code for both ways: each function takes what is to be coded and returns it; a decoder ignores what it is given.
Reading goes on with zeros after the last byte, as writing leaves zeros at the end out. Nothing here can loop for longer
than its arguments say, and no byte outside the data is touched.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from common.wire.compiled import compiled, woven

ENCODING, LOW, RANGE, CODE, AT = 0, 1, 2, 3, 4
STATE: Final = 5  # int64: which way; low end of the range; its size; how far the code lies in it; the next byte
CODE_BYTES: Final = 4
WHOLE: Final = 1 << 32
TOP: Final = 1 << 24
CHANCES: Final = 1 << 16
CHANCE_LEAST: Final = 24  # chosen: a bit costs at least 0.0005 bits, and at most 11.4
RATES: Final = (1 << 16) // (2 + np.arange(40))  # a half first, then a third ..: the share of ones; later a 41st
UNIT_BITS: Final = 24  # of a share of the weight; products keep within 2^53, which a double holds
SUMS_MOST: Final = 1 << 29  # weights of a list add up to less


class Block(NamedTuple):
    """The contexts of one kind of number: `contexts` of them from `first` on, then the parent of all; of each, `width`
    for its bits, the last for all further ones.
    """

    first: int
    contexts: int
    width: int

    @property
    def end(self) -> Any:
        """The first context after it."""
        return self.first + self.width * (self.contexts + 1)


@compiled
def begin(state: Any, data: Any, encoding: Any) -> None:
    """Sets state (STATE,) int64 to the beginning of data (N,) uint8, which is zeros where it is to be written."""
    state[ENCODING], state[LOW], state[RANGE], state[CODE], state[AT] = encoding, 0, WHOLE - 1, 0, 0
    if not encoding:
        for _ in range(CODE_BYTES):
            state[CODE] = state[CODE] << 8 | (np.int64(data[state[AT]]) if state[AT] < len(data) else 0)
            state[AT] += 1


@woven
def _narrow(state: Any, data: Any, low: Any, size: Any) -> None:
    """To `size` > 0 from `low` on."""
    state[LOW] += low
    state[CODE] = min(state[CODE] - low, size)  # where it lies beyond, no further than that: it may not wrap around
    if state[LOW] >= WHOLE:
        state[LOW] -= WHOLE
        at = state[AT] - 1
        if state[ENCODING] and at < len(data):
            while data[at] == 255:  # the first byte never overflows: the whole range does not
                data[at] = 0
                at -= 1
            data[at] += 1
    while size < TOP:
        size <<= 8
        if state[ENCODING]:
            if state[AT] < len(data):
                data[state[AT]] = state[LOW] >> 24
        else:
            state[CODE] = state[CODE] << 8 | (np.int64(data[state[AT]]) if state[AT] < len(data) else 0)
        state[LOW] = (state[LOW] << 8) & (WHOLE - 1)
        state[AT] += 1
    state[RANGE] = size


@woven
def _adapt(odds: Any, context: Any, aim: Any) -> None:
    chance, met = np.int64(odds[context, 0]), np.int64(odds[context, 1])
    chance += ((aim - chance) * RATES[met]) >> 16
    odds[context, 0] = min(max(chance, CHANCE_LEAST), CHANCES - CHANCE_LEAST)
    odds[context, 1] = min(met + 1, len(RATES) - 1)


@woven
def bit(state: Any, data: Any, odds: Any, context: Any, parent: Any, value: Any) -> Any:
    """0 or 1, by the chance of its context. odds: (contexts, 2) uint16, the chance of a one, how often it was met."""
    if not odds[context, 1]:
        odds[context, 0] = odds[parent, 0]
        odds[context, 1] = min(odds[parent, 1], 1)
    ones = (state[RANGE] >> 16) * np.int64(odds[context, 0])
    if not state[ENCODING]:
        value = 1 if state[CODE] < ones else 0
    _narrow(state, data, 0 if value else ones, ones if value else state[RANGE] - ones)
    aim = CHANCES if value else 0
    _adapt(odds, context, aim)
    if parent != context:
        _adapt(odds, parent, aim)
    return value


@compiled
def number(state: Any, data: Any, odds: Any, block: Any, context: Any, most: Any, value: Any) -> Any:
    """From 0 to `most`, in a context of the block: that many ones, then a zero unless it is `most`."""
    own, all_ = block.first + block.width * context, block.first + block.width * block.contexts
    n = 0
    while n < most:
        place = min(n, block.width - 1)
        if not bit(state, data, odds, own + place, all_ + place, 1 if n < value else 0):
            break
        n += 1
    return n


@woven
def _before(weights: Any, place: Any) -> Any:
    """What the weights before a place add up to."""
    sums, places, more, extra = weights
    low, high = 0, extra
    while low < high:
        middle = (low + high) >> 1
        if places[middle] < place:
            low = middle + 1
        else:
            high = middle
    return np.int64(sums[place]) + np.int64(more[low])


@woven
def _beyond(weight: Any, whole: Any, places: Any, left: Any) -> Any:
    """How many of CHANCES + the number of all places say that the least member lies at or beyond the last `places`,
    which weigh so much of the whole: at least one part for each place, because each must be possible.
    """
    unit = (weight << UNIT_BITS) // whole
    share, exponent = np.int64(1) << UNIT_BITS, left
    while exponent:
        if exponent & 1:
            share = share * unit >> UNIT_BITS
        unit = unit * unit >> UNIT_BITS
        exponent >>= 1
    return (share >> (UNIT_BITS - 16)) + places


@compiled
def pick(state: Any, data: Any, weights: Any, first: Any, stop: Any, left: Any, value: Any) -> Any:
    """The place of the least of `left` members that lie in [first, stop), so that there is room for the others.

    weights: sums (places + 1,), what the weights before each place add up to, each >= 1; then what some places weigh
    besides: places ascending, sums before each and one more, and how many. All below SUMS_MOST.
    1 <= left <= stop - first.
    """
    last = _before(weights, stop)
    whole = last - _before(weights, first)
    low, high, parts = first, stop - left + 1, CHANCES + stop - first
    here, after = np.int64(0), parts - _beyond(last - _before(weights, high), whole, stop - high, left)
    unit = state[RANGE] // after
    wanted = state[CODE] // unit
    while high - low > 1:
        middle = (low + high) >> 1
        at = parts - _beyond(last - _before(weights, middle), whole, stop - middle, left)
        if (middle <= value) if state[ENCODING] else (at <= wanted):
            low, here = middle, at
        else:
            high, after = middle, at
    _narrow(state, data, here * unit, (after - here) * unit)
    return low


@compiled
def end(state: Any, data: Any) -> Any:
    """How many bytes say all this: as few as possible, of those that lie in the range.

    What was written is completed. A reader gets -1 unless it was given exactly these bytes.
    """
    size, chosen = CODE_BYTES, state[LOW]
    for fewer in range(CODE_BYTES):
        mask = (WHOLE >> (8 * fewer)) - 1
        rounded = (state[LOW] + mask) & ~mask
        if rounded < state[LOW] + state[RANGE]:
            size, chosen = fewer, rounded
            break
    if not state[ENCODING]:
        whole = len(data) <= state[AT] and (len(data) == 0 or data[len(data) - 1] != 0)
        return len(data) if whole and chosen - state[LOW] == state[CODE] else -1
    ahead = chosen - state[LOW]
    _narrow(state, data, ahead, TOP)
    for n in range(size):
        if state[AT] < len(data):
            data[state[AT]] = (state[LOW] >> (24 - 8 * n)) & 255
        state[AT] += 1
    size = state[AT]
    if size <= len(data):
        while size > 0 and data[size - 1] == 0:
            size -= 1
    return size
