"""Reward functions: from the specification to functions that TRL calls. None of them runs code, and each takes time in proportion to the
answer's length.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from finetune_api.spec import RewardFunction
from finetune_trainer.errors import ConfigInvalid, DataInvalid
from finetune_trainer.evaluation.matching import Matcher, build_matcher

Reward = Callable[..., list[float]]
_COMPARING: Final = ("exact", "contains", "numeric")
_JSON_MAX: Final = 1_000_000
_LISTED: Final = 20


def build_reward(spec: RewardFunction) -> Reward:
    """Build the function that TRL calls with the answers and the columns of their rows, and that returns a score for each.

    :raises ConfigInvalid: the pattern is no RE2 expression.
    """
    score: Callable[[str, Sequence[int], Any], float]
    if spec.type == "regex":
        try:
            matches = build_matcher("regex", spec.pattern or "", ignore_case=False)
        except ValueError as error:
            raise ConfigInvalid(f"method.grpo.rewards ({spec.name}): {error}") from None

        def score(text: str, ids: Sequence[int], answer: Any) -> float:  # noqa: ANN401
            del ids, answer
            return float(matches(text))
    elif spec.type == "json":

        def score(text: str, ids: Sequence[int], answer: Any) -> float:  # noqa: ANN401
            del ids, answer
            return float(is_json(text))
    elif spec.type == "length":

        def score(text: str, ids: Sequence[int], answer: Any) -> float:  # noqa: ANN401
            del text, answer
            return score_length(len(ids), spec.min_tokens, spec.max_tokens)
    else:

        def score(text: str, ids: Sequence[int], answer: Any) -> float:  # noqa: ANN401
            del ids
            return float(_build_comparison(spec, answer)(text))

    def reward(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], answer: Sequence[Any], **others: Any) -> list[float]:  # noqa: ANN401
        del others
        return [score(_text_of(text), ids, wanted) for text, ids, wanted in zip(completions, completion_ids, answer, strict=True)]

    reward.__name__ = spec.name
    return reward


def _build_comparison(spec: RewardFunction, answer: Any) -> Matcher:  # noqa: ANN401
    if spec.type not in _COMPARING or not isinstance(answer, str):
        raise ValueError("the row has no answer")
    return build_matcher(spec.type, answer, ignore_case=False)


def check_rewards(specs: Iterable[RewardFunction], rows: Iterable[tuple[str, Any]]) -> None:
    """Check that each row has the answer that the rewards compare with, before the model is loaded.

    :param rows: place and answer of each.
    :raises ConfigInvalid: a pattern is no RE2 expression.
    :raises DataInvalid: up to 20 of the rows that have no answer to compare with.
    """
    specs = list(specs)
    for spec in specs:
        build_reward(spec)
    comparing = [spec for spec in specs if spec.type in _COMPARING]
    if not comparing:
        return
    faults: list[str] = []
    for where, answer in rows:
        for spec in comparing:
            try:
                _build_comparison(spec, answer)
            except ValueError as error:
                faults.append(f"{where}: the reward {spec.name} can't compare: {error}")
    if faults:
        heading = f"rows without an answer that method.grpo.rewards can compare with ({len(faults)}):"
        more = f"\n… and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise DataInvalid("\n".join([heading, *faults[:_LISTED]]) + more)


def is_json(text: str) -> bool:
    """Tell whether all of ``text`` is one JSON value (NaN and Infinity are none)."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    if len(text) > _JSON_MAX:
        return False
    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def score_length(tokens: int, low: int | None, high: int | None) -> float:
    """Return 1 for a length from ``low`` to ``high`` tokens; off that range, less in proportion to how far it is off."""
    if low is not None and tokens < low:
        return tokens / low
    if high is not None and tokens > high:
        return high / tokens
    return 1.0


def _text_of(completion: Any) -> str:  # noqa: ANN401
    if isinstance(completion, str):
        return completion
    return "".join(str(message.get("content", "")) for message in completion)
