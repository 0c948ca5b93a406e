"""Kubernetes quantities: ``32Gi``, ``500m``, ``1.5``.

Grammar from ``k8s.io/apimachinery/pkg/api/resource``: a decimal number, then a binary suffix, a decimal suffix or a decimal
exponent.
"""

import math
import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

from finetune_api.rules import Obeys, Rule

QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?$"
_PARTS: Final = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(.*)$")
_FACTORS: Final[dict[str, Decimal]] = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


def parse_quantity(text: str) -> Decimal:
    """Return the value of the quantity ``text`` in its base unit (bytes, cores, pieces).

    :raises ValueError: ``text`` is not a quantity.
    """
    match = _PARTS.match(text)
    if match is None or not re.fullmatch(QUANTITY_PATTERN.strip("^$"), text):
        raise ValueError(f"{text!r} is not a quantity; write a number with an optional suffix, such as 24Gi or 500m")
    number, suffix = match.groups()
    if suffix in _FACTORS:
        return Decimal(number) * _FACTORS[suffix]
    return Decimal(number).scaleb(int(suffix[1:]))  # a decimal exponent: e3, E-3


def _as_text(value: object) -> object:
    """YAML gives ``memory: 1000`` as a number, and Kubernetes takes it as a quantity."""
    if isinstance(value, float):
        raise ValueError(f"must be a whole number or text; write '{value}'")  # noqa: TRY004  # pydantic collects ValueErrors
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def build_range_rule(least: str, most: str, hint: str) -> Rule:
    """Return the rule that a quantity lies between ``least`` and ``most``, both included."""
    low, high = parse_quantity(least), parse_quantity(most)

    def holds(text: str) -> bool:
        try:
            return low <= parse_quantity(text) <= high
        except ValueError:
            return True  # the pattern's matter

    as_quantity = f"quantity(self).compareTo(quantity('{least}')) >= 0 && quantity(self).compareTo(quantity('{most}')) <= 0"
    return Rule(
        cel=f"type(self) == int ? self >= {math.ceil(low)} && self <= {math.floor(high)} : !isQuantity(self) || ({as_quantity})",
        holds=holds,
        message=f"must lie between {least} and {most}; {hint}",
    )


Quantity = Annotated[
    str,
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    BeforeValidator(_as_text),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "maxLength": 32,
            "x-kubernetes-int-or-string": True,
        }
    ),
]
"""A Kubernetes quantity, as text."""
MemoryQuantity = Annotated[Quantity, Obeys(build_range_rule("64Mi", "64Ti", "write a unit, such as 16Gi"))]
"""An amount of memory or disk. Its bounds catch a forgotten unit: `16` would be 16 bytes."""
CpuQuantity = Annotated[Quantity, Obeys(build_range_rule("1m", "1024", "write cores (4) or thousandths (500m)"))]
"""An amount of processor time, in cores."""
