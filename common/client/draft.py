"""What the pieces of an answer amount to, and what the answer then adds. Pure: knows no stream and no connection.

Pieces are sent while an answer is made, by whichever edge makes it: one may be lost with its edge, come twice, or come
late from an edge that lost the query to another. Index 0 begins the text anew. The answer, which comes last, is whole.
So of all that comes a reader is given what follows, and at the end what is missing: the texts that it was given since
the last index 0 are then the answer's, whatever happened on the way.

>>> draft = extended(Draft(), Piece(query_id="q", client="c", node="e", index=0, text="Zum ", tokens=2))
>>> answer = Answer(query_id="q", client="c", node="e", bundle=1, text="Zum Meer.", finish="stop", completion_tokens=5)
>>> [(piece.index, piece.text, piece.tokens) for piece in ending(draft, answer)]
[(1, 'Meer.', 3)]
"""

from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import QigError, Rejected, Unavailable
from common.wire.fields import ANSWER_MAX_CHARS, PIECE_MAX_CHARS
from common.wire.inference import Answer, Piece


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer's text so far. node: the edge that says it; index: the next piece's; tokens: said so far."""

    node: str = ""
    index: int = 0
    text: str = ""
    tokens: int = 0


def extended(draft: Draft, piece: Piece) -> Draft | None:
    """The draft with one more piece; None when the piece does not follow: seen before, another edge's, after a gap,
    or of a text that would be too long for an answer.
    """
    if piece.index and (piece.node, piece.index) != (draft.node, draft.index):
        return None
    begun = draft if piece.index else Draft(piece.node)
    longer = Draft(piece.node, piece.index + 1, begun.text + piece.text, begun.tokens + piece.tokens)
    too_long = max(len(longer.text), longer.index) > ANSWER_MAX_CHARS
    return None if too_long or longer == draft else longer


def ending(draft: Draft, answer: Answer) -> Iterator[Piece]:
    """The pieces that make the draft the answer's text: its rest, or all of it anew where the draft says other."""
    begun = draft if answer.text.startswith(draft.text) else Draft()
    rest, tokens = answer.text[len(begun.text) :], max(0, answer.completion_tokens - begun.tokens)
    starts = range(0, len(rest), PIECE_MAX_CHARS) or ([] if begun is draft else [0])
    for index, start in enumerate(starts, begun.index):
        yield Piece(
            query_id=answer.query_id,
            client=answer.client,
            node=answer.node,
            index=index,
            text=rest[start : start + PIECE_MAX_CHARS],
            tokens=0 if start else tokens,
        )


def complaint(answer: Answer) -> QigError | None:
    """The problem of an answer as the error that it was at the edge; None when there is none.

    Rejected for a refusal that says nothing of asking again; Unavailable for one that does, and for an answer that was
    begun and left (its deadline passed, its edge stopped).
    """
    problem = answer.problem
    if problem is None:
        return None
    if answer.finish == "refused" and problem.retry_after_s is None:
        return Rejected(problem.code, problem.message)
    return Unavailable(problem.code, problem.message, retry_after_s=problem.retry_after_s)
