"""Prompts: taken from held-out rows, from the specification, from task files; and written as the model reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_trainer.data.tokenizing import build_plain_instruction

Message = dict[str, str]
Prompt = str | list[Message]
"""A text, or a conversation that ends with the user's turn."""
_TEXT_PROMPT_CHARACTERS: Final = 160


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """A prompt, and the answer that the data have for it."""

    prompt: Prompt
    expected: str | None = None


def read_prompt(value: object) -> Prompt | None:
    """Return ``value`` as a prompt, or None where it is none."""
    if isinstance(value, str):
        return value or None
    if not isinstance(value, list) or not value:
        return None
    messages = [item for item in value if isinstance(item, Mapping)]
    if len(messages) != len(value) or any(not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str) for m in messages):
        return None
    return [{"role": m["role"], "content": m["content"]} for m in messages] if messages[-1]["role"] == "user" else None


def choose_samples(rows: Sequence[Mapping[str, Any]], count: int, prompts: Sequence[str]) -> list[SamplePrompt]:
    """Return the prompts to show: ``prompts`` where there are any, else ``count`` of the normalised ``rows``, evenly from all of them."""
    if prompts:
        return [SamplePrompt(prompt) for prompt in prompts]
    count = min(count, len(rows))
    chosen = [rows[number * len(rows) // count] for number in range(count)]
    return [sample for row in chosen if (sample := _split_row(row)) is not None]


def _split_row(row: Mapping[str, Any]) -> SamplePrompt | None:
    """Take a row in TRL's shapes apart into prompt and answer."""
    if "prompt" in row:
        prompt = read_prompt(row["prompt"])
        answer = row.get("completion", row.get("chosen"))
        if isinstance(answer, list):
            answer = "\n".join(str(message.get("content", "")) for message in answer if isinstance(message, Mapping))
        return None if prompt is None else SamplePrompt(prompt, answer if isinstance(answer, str) else None)
    if isinstance(messages := row.get("messages"), list) and messages and messages[-1].get("role") == "assistant":
        prompt = read_prompt(messages[:-1])
        return None if prompt is None else SamplePrompt(prompt, messages[-1]["content"])
    if isinstance(text := row.get("text"), str) and text:
        cut = min(len(text), max(1, min(_TEXT_PROMPT_CHARACTERS, len(text) // 2)))
        return SamplePrompt(text[:cut], text[cut : 4 * cut] or None)
    return None


def render_prompt(prompt: Prompt, tokenizer: Any, *, conversational: bool, instruction: bool) -> str:  # noqa: ANN401
    """Write ``prompt`` as the rows of training were written.

    :param conversational: the training data are conversations; a prompt that is a text becomes a user's message.
    :param instruction: they are instructions in plain text, since the model has no chat template.
    """
    if isinstance(prompt, str):
        if not conversational:
            return prompt
        prompt = [{"role": "user", "content": prompt}]
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
    if instruction:
        plain = build_plain_instruction({"prompt": prompt[-1:], "completion": [{"content": ""}]})
        return str(plain["prompt"])
    return "\n\n".join(message["content"] for message in prompt) + "\n"
