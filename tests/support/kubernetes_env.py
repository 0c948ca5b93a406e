"""What a container sees of the `env` in its manifest, as `k8s.io/kubernetes/third_party/forked/golang/expansion` has it.

``$(NAME)`` is a variable defined above, and stays as it is where there is none; ``$$`` is one dollar.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def expand(env: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the variables that are given by value, expanded."""
    seen: dict[str, str] = {}
    for variable in env:
        if "valueFrom" not in variable:
            seen[variable["name"]] = _expand(variable.get("value", ""), seen)
    return seen


def _expand(text: str, variables: Mapping[str, str]) -> str:
    parts, position = [], 0
    while (dollar := text.find("$", position)) >= 0 and dollar + 1 < len(text):
        parts.append(text[position:dollar])
        end = text.find(")", dollar) if text[dollar + 1] == "(" else -1
        if text[dollar + 1] == "$":
            parts.append("$")
            position = dollar + 2
        elif end >= 0:
            name = text[dollar + 2 : end]
            parts.append(variables.get(name, f"$({name})"))
            position = end + 1
        else:
            parts.append(text[dollar : dollar + 2])
            position = dollar + 2
    return "".join(parts) + text[position:]
