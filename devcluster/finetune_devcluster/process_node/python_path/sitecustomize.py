"""Lets a Python program in a pod of the process node find Services by their names.

Python imports this module by itself because its folder is on PYTHONPATH. A table, written anew whenever Services or pods
change, gives the local address and port behind each name; every other name goes to the system.
"""

import json
import os
import socket

_TABLE = os.environ.get("FINETUNE_SERVICE_TABLE")
_resolve = socket.getaddrinfo


def getaddrinfo(host, port, *arguments, **options):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN003, ANN201
    """Resolve as the system does, but names in the table to where the table says."""
    name = host.decode() if isinstance(host, bytes) else host
    if isinstance(name, str) and _TABLE is not None and "." in name:
        try:
            with open(_TABLE, encoding="utf-8") as stream:  # noqa: PTH123 - nothing is imported here that need not be
                entry = json.load(stream).get(name.rstrip("."), {}).get(str(port))
        except (OSError, ValueError):
            entry = None
        if entry is not None:
            return _resolve(entry[0], entry[1], *arguments, **options)
    return _resolve(host, port, *arguments, **options)


socket.getaddrinfo = getaddrinfo
