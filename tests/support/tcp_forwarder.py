"""A forwarder of TCP connections that can cut them all."""

import contextlib
import socket
import socketserver
import threading
from types import TracebackType
from typing import Self


class TcpForwarder:
    """Listens on a free port of the loopback interface and passes everything on. As a context manager it ends with the block."""

    def __init__(self, host: str, port: int) -> None:
        self.connections = 0
        """Connections taken so far."""
        self._open: set[socket.socket] = set()
        forwarder = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                forwarder.connections += 1
                with socket.create_connection((host, port)) as onward:
                    pair = (self.request, onward)
                    forwarder._open |= set(pair)
                    back = threading.Thread(target=_copy, args=(onward, self.request), daemon=True)
                    back.start()
                    _copy(self.request, onward)
                    back.join(10)
                    forwarder._open -= set(pair)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def cut(self) -> None:
        """Break every connection that is open."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cut()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
