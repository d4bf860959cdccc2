"""`Doors`: accepts the clients of listening sockets, as long as there are places for them.

A full worker does not accept while another worker has a place: its sockets are the others', too,
so a client waits in the backlog until one of them comes. The last worker to be full turns clients
away, and so does a server without workers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from typing import Final

from ehlo.server.observing.failures import log_failure
from ehlo.server.places import Connections
from ehlo.server.system import listener

Make = Callable[[], asyncio.Protocol]
"""Returns the protocol for a client."""

_AT_ONCE: Final = 16  # clients in one turn of the loop; each needs a file descriptor
_LOOK_AGAIN: Final = 1.0  # seconds

logger: logging.Logger = logging.getLogger("ehlo.server")


class Doors:
    """Accepts clients until it is closed.

    Example::

        doors = Doors(loop, connections)
        await doors.open(sock, make_protocol)
        doors.close()
        await doors.all_served()
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
        self._loop = loop
        self._connections = connections
        self._watched: dict[socket.socket, Make] = {}
        self._servers: list[asyncio.Server] = []
        self._opening: dict[asyncio.Task[object], socket.socket] = {}
        self._again: asyncio.TimerHandle | None = None  # while no socket is watched
        self._logged = -math.inf

    async def open(self, sock: socket.socket, make: Make) -> None:
        """Accept the clients of a listening socket, which is closed with the doors."""
        if isinstance(self._loop, asyncio.BaseEventLoop) or self._connections.is_shared:
            try:
                if self._again is None:
                    self._watch(sock, make)
            except NotImplementedError:
                pass  # a loop of Windows
            else:
                self._watched[sock] = make
                return
        # uvloop's own way saves 10 of 30 us per connection, but cannot be stopped
        with listener.kept(sock):
            server = await self._serve(sock, make)
        self._servers.append(server)  # after the await, since `close` makes a new list

    async def _serve(self, sock: socket.socket, make: Make) -> asyncio.Server:
        if sock.family == listener.UNIX:
            server = await self._loop.create_unix_server(make, sock=sock)
        else:
            server = await self._loop.create_server(make, sock=sock)
        sock.listen(listener.BACKLOG)  # the loop has set it to less
        return server

    def close(self) -> None:
        """Accept no more, and close the listening sockets."""
        self._stop_watching()
        for sock in self._watched:
            sock.close()
        for server in self._servers:
            server.close()
        self._watched, self._servers = {}, []

    async def all_served(self) -> None:
        """Wait until each client that was accepted has its protocol."""
        if self._opening:
            await asyncio.wait(set(self._opening))

    # -- clients ---------------------------------------------------------------------------------

    def _watch(self, sock: socket.socket, make: Make) -> None:
        self._loop.add_reader(sock, self._accept, sock, make)

    def _accept(self, sock: socket.socket, make: Make) -> None:
        """Called when clients wait: accept some of them."""
        opening = self._opening
        for _ in range(_AT_ONCE):
            if not self._connections.may_accept(len(opening)):
                self._wait()
                return
            try:
                client, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # the system has no more of something; asking again is busy
                self._log(error)
                self._wait()
                return
            task = self._loop.create_task(self._loop.connect_accepted_socket(make, client))
            opening[task] = client
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        """Called when a client has its protocol, or cannot have one."""
        client = self._opening.pop(task)
        if task.cancelled():  # maybe before it began
            client.close()
        elif (error := task.exception()) is not None:
            client.close()
            if not isinstance(error, OSError):  # it has gone
                log_failure(logger, error, "a client could not be served")
        if self._again is not None:
            self._look_again()

    def _log(self, error: OSError) -> None:
        if self._loop.time() - self._logged >= _LOOK_AGAIN:
            self._logged = self._loop.time()
            logger.error("accepting connections failed: %s", error.strerror)

    # -- waiting for a place ---------------------------------------------------------------------

    def _wait(self) -> None:
        """Stop accepting until a place is free here, or for a second: none may be free anywhere."""
        self._stop_watching()
        self._again = self._loop.call_later(_LOOK_AGAIN, self._look_again)
        self._connections.on_release = self._look_again

    def _stop_watching(self) -> None:
        for sock in self._watched:
            self._loop.remove_reader(sock)
        self._connections.on_release = None
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _look_again(self) -> None:
        self._stop_watching()
        for sock, make in self._watched.items():
            self._watch(sock, make)
