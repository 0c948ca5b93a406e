"""Ports of the loopback interface for servers that come and go."""

import fcntl
import os
import random
import socket
import tempfile
from collections import deque
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final

_EPHEMERAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 20_000
_TRIES: Final = 1000
_REMEMBERED: Final = 1000
"""Ports that are kept for a process at the most: of servers of long ago, the oldest ones are given up."""
_kept: Final[deque[int]] = deque()


def find_free_ports(count: int) -> list[int]:
    """Return ports that nothing is bound to at this moment, and that nobody else who asks here is given before this process ends.

    Between the search and the moment at which a server takes its port lie tenths of a second, and tests look for ports side by side.

    They lie below the range that the kernel takes ports of outgoing connections from. From within it, a client that calls a server
    which is being restarted may be given the server's own port, connect to itself, and keep the server from coming back.

    Raises:
        OSError: there are not so many.
    """
    ephemeral = int(_EPHEMERAL_RANGE.read_text().split()[0]) if _EPHEMERAL_RANGE.exists() else 32_768
    lowest = min(_LOWEST, ephemeral // 2)
    ports: list[int] = []
    with ExitStack() as held:
        for _ in range(_TRIES):
            if len(ports) == count:
                return ports
            probe = held.enter_context(socket.socket())
            port = random.randrange(lowest, ephemeral)  # noqa: S311  # spreads servers, guards nothing
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if _keep(port):
                ports.append(port)
    raise OSError(f"no {count} free ports between {lowest} and {ephemeral}")


def _keep(port: int) -> bool:
    """Keep a port for this process, by a lock on one byte of a file that all of this user's have; false where it is kept already."""
    if port in _kept:
        return False
    try:
        fcntl.lockf(_open_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _kept.append(port)
    if len(_kept) > _REMEMBERED:
        fcntl.lockf(_open_file(), fcntl.LOCK_UN, 1, _kept.popleft())
    return True


@cache
def _open_file() -> int:
    # It stays open: the locks go with the first of a process' handles of the file that is closed.
    path = Path(tempfile.gettempdir()) / f"finetune-devcluster-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
