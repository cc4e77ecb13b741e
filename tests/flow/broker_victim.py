"""A process to be killed: consumes the queries of the broker in argv[1]; on the message "poison" it dies by its own
hand. argv[2]: max_deliveries. argv[3]: "hang", to say so on stdout and hang on any other message; or "reads", to count
it, whole reads together.
"""

import asyncio
import os
import sys

from broker_node import Node, consumer, counted


async def main() -> None:
    url, most, how = sys.argv[1:]

    async def handle(delivery, body):
        if body == b"poison":
            os._exit(9)
        if how == "hang":
            print("taken", flush=True)  # noqa: T201 -- what the test waits for
            await asyncio.Event().wait()
        return counted(body)

    async def handle_read(given):
        return [await handle(*each) for each in given]

    together = {"handle_read": handle_read} if how == "reads" else {}
    await Node(url, consumer(handle, max_deliveries=int(most), **together), "victim").start()
    await asyncio.Event().wait()


asyncio.run(main())
