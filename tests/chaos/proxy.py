"""A wire between one process and the broker, which can be cut, go silent or become slow."""

import asyncio
from contextlib import suppress

CHUNK_BYTES = 1 << 16
SLOW_S = 0.02


class Proxy:
    """Listens on a port of its own and carries bytes both ways. What was on its way when it went silent arrives
    afterwards, late.
    """

    def __init__(self, port: int) -> None:
        """port: of the broker, on this machine."""
        self.url = ""
        self.slow = False
        self._to = port
        self._cut = False
        self._loud = asyncio.Event()
        self._loud.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1")
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut(True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, cut: bool) -> None:  # noqa: FBT001
        """Connections break, and none is made until it is whole again."""
        self._cut = cut
        for end in self._ends if cut else ():
            end.transport.abort()

    def silence(self, silent: bool) -> None:  # noqa: FBT001
        """Nothing arrives, and nobody is told."""
        if silent:
            self._loud.clear()
        else:
            self._loud.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with suppress(OSError):
                await self._carry(reader, writer)
        finally:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends |= {writer, back}
        try:
            ways = [asyncio.ensure_future(way) for way in (self._pump(reader, back), self._pump(there, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._ends -= {writer, back}
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._loud.wait()
            if self.slow:
                await asyncio.sleep(SLOW_S)
            writer.write(data)
            await writer.drain()
