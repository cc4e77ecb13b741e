"""A process to be killed: consumes the queries of the broker in argv[1]; on the message "poison" it dies by its own
hand, on any other it says so on stdout and hangs. argv[2]: max_deliveries.
"""

import asyncio
import os
import sys

from broker_node import Node, consumer


async def main() -> None:
    async def handle(delivery, body):
        if body == b"poison":
            os._exit(9)
        print("taken", flush=True)  # noqa: T201 -- what the test waits for
        await asyncio.Event().wait()

    await Node(sys.argv[1], consumer(handle, max_deliveries=int(sys.argv[2])), "victim").start()
    await asyncio.Event().wait()


asyncio.run(main())
