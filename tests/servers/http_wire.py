"""HTTP/1.1 on asyncio's streams, as much of it as a proxy needs: heads, bodies in pieces, connections that are reset."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

PIECE = 1 << 16
LAST = b"0\r\n\r\n"  # ends a body that comes in chunks
_T = TypeVar("_T")


class Gone(Exception):
    """One of the two sides has closed its connection, or the exchange ended without an answer."""


@dataclass
class Head:
    """The first line and the headers of a request or an answer."""

    first: list[str]  # three words
    headers: list[tuple[str, str]]

    def get(self, name: str) -> str:
        """Of a header, in lower case; '' when it is missing."""
        return next((value.lower() for key, value in self.headers if key.lower() == name), "")

    def framing(self, bodiless: bool = False, otherwise: int = 0) -> int | None:
        """Bytes of the body; None when it comes in chunks, -1 when it goes on until the connection is closed."""
        if bodiless:
            return 0
        if "chunked" in self.get("transfer-encoding"):
            return None
        length = self.get("content-length")
        return int(length) if length else otherwise

    def encode(self) -> bytes:
        lines = [" ".join(self.first), *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """None when the connection was closed before anything came."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Gone from None
        return None
    first, *lines = data[:-4].decode("latin-1").split("\r\n")
    headers = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Head([*first.split(" ", 2), ""][:3], headers)


async def read_answer(reader: asyncio.StreamReader) -> Head:
    """The final one."""
    while True:
        head = await read_head(reader)
        if head is None:
            raise Gone
        if not head.first[1].startswith("1"):
            return head


async def body_of(reader: asyncio.StreamReader, length: int | None) -> AsyncIterator[bytes]:
    """The body's bytes, in pieces; `length` as of Head.framing. Gone when the end is missing."""
    try:
        if length is None:
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                async for piece in body_of(reader, size):
                    yield piece
                await reader.readexactly(2)
            while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
                pass
        while length and (piece := await reader.read(PIECE if length < 0 else min(PIECE, length))):
            if length > 0:
                length -= len(piece)
            yield piece
    except asyncio.IncompleteReadError:
        raise Gone from None
    if length is not None and length > 0:
        raise Gone


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """A body that is there as a whole."""
    yield data


async def up_to(limit: int, data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, which may not have more bytes."""
    async for piece in data:
        limit -= len(piece)
        assert limit >= 0, "the body is larger than what is held in memory"
        yield piece


def framed(piece: bytes, length: int | None) -> bytes:
    """A piece of a body; b'' stays that, for it would end one that comes in chunks."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if length is None and piece else piece


async def sent(to: asyncio.StreamWriter, data: bytes) -> bool:
    """False when the other side takes no more."""
    try:
        to.write(data)
        await to.drain()
    except OSError:
        return False
    return True


async def first_of(sending: asyncio.Task[None], answer: Coroutine[Any, Any, _T]) -> _T:
    """The answer; raises the error of the sending, when that comes first."""
    answering = asyncio.ensure_future(answer)
    try:
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
        return await answering
    finally:
        await ended(answering)


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel it if it still runs; its result is known already, or does not matter."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def end_tasks() -> None:
    """Cancel all the others of this loop."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def flushed(writer: asyncio.StreamWriter, seconds: float = 5.0) -> None:
    """Wait until the other side's kernel has everything, but no longer than this."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not writer.is_closing() and (writer.transport.get_write_buffer_size() or _unsent(connection)):
                await asyncio.sleep(0.01)


def _unsent(connection: Any) -> int:
    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, so that the other side sees that it was no proper end."""
    with contextlib.suppress(OSError):
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
