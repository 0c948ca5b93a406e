"""When an answer counts."""

import math
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Final

from finetune_api.spec.evaluation import TaskMatch

Matcher = Callable[[str], bool]
"""Says of an answer whether it counts."""
_NUMBER: Final = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?|[-+−]?\.\d+")
_EXPRESSION_MAX: Final = 4096
_ANSWER_MAX: Final = 65_536
_RELATIVE: Final = 1e-6


def build_matcher(match: TaskMatch, expected: str, *, ignore_case: bool) -> Matcher:
    """Build the matcher of one row.

    :raises ValueError: ``expected`` is no RE2 expression, or no number, where one is called for; or empty.
    """
    if not expected.strip():
        raise ValueError("the expected answer is empty")
    if match == "regex":
        return _build_expression(expected, ignore_case=ignore_case)
    if match == "numeric":
        return _build_number(expected)
    wanted = _fold(expected.strip(), ignore_case=ignore_case)
    if match == "contains":
        return lambda answer: wanted in _fold(answer, ignore_case=ignore_case)
    return lambda answer: _fold(answer.strip(), ignore_case=ignore_case) == wanted


def _fold(text: str, *, ignore_case: bool) -> str:
    normal = unicodedata.normalize("NFC", text)
    return normal.casefold() if ignore_case else normal


def _build_expression(expression: str, *, ignore_case: bool) -> Matcher:
    """Build a search by RE2, whose time grows with the answer's length and never faster, whatever the expression."""
    import re2  # noqa: PLC0415  loaded only for runs that use it

    if len(expression) > _EXPRESSION_MAX:
        raise ValueError(f"the expression has more than {_EXPRESSION_MAX} characters")
    options = re2.Options()
    options.case_sensitive = not ignore_case
    options.log_errors = False
    options.dot_nl = True
    try:
        compiled = re2.compile(expression, options)
    except re2.error as error:
        words = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{expression!r} is no RE2 expression: {words}; look-around and back-references don't exist there") from None
    return lambda answer: compiled.search(answer[:_ANSWER_MAX]) is not None


def _build_number(expected: str) -> Matcher:
    wanted = find_last_number(expected)
    if wanted is None:
        raise ValueError(f"{expected!r} has no number in it")

    def matches(answer: str) -> bool:
        found = find_last_number(answer)
        return found is not None and math.isclose(found, wanted, rel_tol=_RELATIVE, abs_tol=1e-9)

    return matches


def find_last_number(text: str) -> float | None:
    """Return the last number in ``text``, None where there is none. Commas between groups of three digits are read over."""
    numbers = _NUMBER.findall(text[:_ANSWER_MAX])
    if not numbers:
        return None
    try:
        value = float(Decimal(numbers[-1].replace(",", "").replace("−", "-")))
    except (InvalidOperation, OverflowError):
        return None
    return value if math.isfinite(value) else None
