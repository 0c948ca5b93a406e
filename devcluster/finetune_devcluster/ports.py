"""Ports of the loopback interface for servers that come and go."""

import random
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

_EPHEMERAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 20_000
_TRIES: Final = 1000


def find_free_ports(count: int) -> list[int]:
    """Return ports that nothing is bound to at this moment.

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
            ports.append(port)
    raise OSError(f"no {count} free ports between {lowest} and {ephemeral}")
