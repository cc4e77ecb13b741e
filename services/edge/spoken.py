"""Text as it becomes complete, token by token: never half a character, never a stop text or the beginning of one.

Pure. What may still become a stop text is held back until it cannot; so what was once given out never has to be taken
back, and the pieces together are the answer's text.
"""

from collections.abc import Sequence

from common.coordizer.encode import Encoder, StreamDecoder


class Spoken:
    """The text of one answer. stops: each at least one character; `stopped`: one of them was said."""

    def __init__(self, encoder: Encoder, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(encoder)
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is certain with more tokens. Raises Rejected("unknown_token")."""
        return self._take(self._decoder.push(tokens))

    def finish(self) -> str:
        """What was held back, when nothing more comes."""
        rest = self._take(self._decoder.finish()) + self._held
        self._held = ""
        return rest

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        ends = [found for found in map(text.find, self._stops) if found >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        self._held = text[len(text) - self._begun(text) :]
        return text[: len(text) - len(self._held)]

    def _begun(self, text: str) -> int:
        """How many characters at the end of the text are the beginning of a stop text: the most of any."""
        sizes = [
            size for stop in self._stops for size in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:size])
        ]  # fmt: skip
        return max(sizes, default=0)
