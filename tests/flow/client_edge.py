"""An edge in small, as clients know it: it takes queries, says the words it was given, and answers.

The words of a text "a b c" are "a ", "b ", "c". They leave as pieces where the query wishes it, then whole.
"""

from common.runtime import streams
from common.runtime.effects import Send
from common.wire.codec import pack, unpack
from common.wire.inference import Answer, Piece, Query

NODE = "edge-1"


def words(text):
    parts = text.split()
    return [f"{part} " for part in parts[:-1]] + parts[-1:]


def pieces_of(query, node=NODE):
    return [
        Piece(query_id=query.id, client=query.client, node=node, index=index, text=word, tokens=1)
        for index, word in enumerate(words(query.text))
    ]


def answer_to(query, **changed):
    said = {"node": NODE, "bundle": 1, "text": "".join(words(query.text)), "finish": "stop"}
    known = {"query_id": query.id, "client": query.client, "completion_tokens": len(words(query.text))}
    return Answer(**known | said | changed)


async def say(redis, message, client=None):
    """One message onto a client's stream of answers."""
    await redis.xadd(streams.answers(client or message.client), {"__data__": pack(message)})


def edge(redis, before_piece=None, **changed):
    """A handler of queries. before_piece: awaited before each, with it; changed: fields of the answer."""

    async def handle(delivery, body):
        query = unpack(Query, body)
        for piece in pieces_of(query) if query.stream else ():
            if before_piece is not None:
                await before_piece(piece)
            await say(redis, piece)
        return [Send(streams.answers(query.client), pack(answer_to(query, **changed)), query.id)]

    return handle
