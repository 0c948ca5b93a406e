"""From normalised examples to token ids and labels, in the same way as TRL's ``SFTTrainer`` (1.16).

A test holds that the result equals what ``SFTTrainer`` makes of the same rows. It is done here all the same, before the trainer exists,
because TRL drops what it can't learn from without a word.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_trainer.data.faults import Row
from finetune_trainer.errors import ConfigInvalid, DataInvalid

logger = logging.getLogger(__name__)

IGNORED: Final = -100
"""Label of a token that is not learnt."""
CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Template of conversations for base models that have ChatML's tokens, but no template of their own."""
_CHATML_TOKENS: Final = ("<|im_start|>", "<|im_end|>")
_GENERATION: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")
_BATCH: Final = 256
_PROBE: Final = "finetune-probe"


@dataclass(frozen=True, slots=True)
class Tokenised:
    """One example, whole: nothing is truncated yet."""

    input_ids: list[int]
    labels: list[int]
    """`input_ids`, with :data:`IGNORED` for what is not learnt."""


class ExampleTokenizer:
    """Tokenises examples of one dataset.

    :param tokenizer: a transformers tokenizer. Its ``chat_template`` is set to :data:`CHATML` where it has none, has ChatML's tokens, and
        the data are conversations: it must be saved with the adapter then.
    :param completion_only: learn from answers only; from every token otherwise. Plain text is always learnt whole.
    :raises ConfigInvalid: the data are conversations, and the tokenizer has no template for them; or it has no EOS token.
    """

    def __init__(self, tokenizer: Any, example: Row, format_: str, *, completion_only: bool) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self._completion_only = completion_only
        self._template: str | None = None
        self._by_prefix = False
        self.conversational = _is_conversational(example)
        self._plain_instruction = False
        if self.conversational and not tokenizer.chat_template:
            self._settle_without_template(format_)
        if not self.conversational and tokenizer.eos_token is None:
            raise ConfigInvalid("the model's tokenizer has no EOS token, so that the end of an answer can't be learnt; set eos_token in it")
        if self.conversational and "messages" in example and completion_only:
            self._choose_masking()
        self.stop_ids: Final = frozenset(self._find_stop_ids())
        """Tokens that end an answer: EOS, and the end of an assistant's turn in the chat template."""

    def tokenise(self, rows: Sequence[Row]) -> Iterator[Tokenised]:
        """Yield each of ``rows`` tokenised, in order.

        :raises DataInvalid: the chat template refuses a conversation.
        """
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            if self._plain_instruction:
                batch = [build_plain_instruction(row) for row in batch]
            if self.conversational:
                yield from self._tokenise_conversations(batch)
            else:
                yield from self._tokenise_texts(batch)

    def _tokenise_texts(self, batch: Sequence[Row]) -> Iterator[Tokenised]:
        eos = self._tokenizer.eos_token
        if "text" in batch[0]:
            for ids in self._ids([_end_with(row["text"], eos) for row in batch]):
                yield Tokenised(ids, list(ids))
            return
        prompts = self._ids([row["prompt"] for row in batch])
        for prompt, ids in zip(prompts, self._ids([row["prompt"] + _end_with(row["completion"], eos) for row in batch]), strict=True):
            yield self._mask_prompt(prompt, ids)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [list(ids) for ids in self._tokenizer(text=texts)["input_ids"]]

    def _mask_prompt(self, prompt: list[int], ids: list[int]) -> Tokenised:
        # The answer begins where the tokens of prompt and prompt + answer part, which is not always the prompt's last token
        begin = _common_prefix(prompt, ids) if self._completion_only else 0
        return Tokenised(ids, [IGNORED] * begin + ids[begin:])

    def _tokenise_conversations(self, batch: Sequence[Row]) -> Iterator[Tokenised]:
        if "prompt" in batch[0]:
            prompts = self._ids_of([row["prompt"] for row in batch], add_generation_prompt=True)
            for prompt, ids in zip(prompts, self._ids_of([row["prompt"] + row["completion"] for row in batch]), strict=True):
                yield self._mask_prompt(prompt, ids)
            return
        conversations = [row["messages"] for row in batch]
        if not self._completion_only:
            for ids in self._ids_of(conversations):
                yield Tokenised(ids, list(ids))
            return
        if self._by_prefix:
            yield from self._mask_by_prefix(conversations)
            return
        encoded = self._apply(conversations, return_assistant_tokens_mask=True)
        for ids, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
            yield Tokenised(list(ids), [token if learnt else IGNORED for token, learnt in zip(ids, mask, strict=True)])

    def _ids_of(self, conversations: list[list[dict[str, str]]], **options: Any) -> list[list[int]]:  # noqa: ANN401
        return [list(ids) for ids in self._apply(conversations, **options)["input_ids"]]

    def _apply(self, conversations: list[list[dict[str, str]]], **options: Any) -> Any:  # noqa: ANN401
        from jinja2 import TemplateError  # noqa: PLC0415  comes with transformers, which the caller has loaded

        try:  # all at once: transformers asks the tokenizer once then, which takes all processors for it
            return self._tokenizer.apply_chat_template(
                conversations, chat_template=self._template, tokenize=True, return_dict=True, **options
            )
        except TemplateError:
            for messages in conversations:  # which one it is
                self._render(messages, tokenize=False, add_generation_prompt=options.get("add_generation_prompt", False))
            raise

    def _render(self, messages: list[dict[str, str]], **options: Any) -> Any:  # noqa: ANN401
        from jinja2 import TemplateError  # noqa: PLC0415  comes with transformers, which the caller has loaded

        try:
            return self._tokenizer.apply_chat_template(messages, chat_template=self._template, **options)
        except TemplateError as error:
            opening = next((message["content"] for message in messages if message["role"] != "system"), "")
            roles = ", ".join(message["role"] for message in messages[:8])
            raise DataInvalid(
                f"the model's chat template refuses a conversation ({roles}; it begins {opening[:60]!r}): {error}. Mend the conversation"
            ) from None

    def _mask_by_prefix(self, conversations: list[list[dict[str, str]]]) -> Iterator[Tokenised]:
        """Find the assistant's turns by rendering the conversation up to each of them: for templates without generation markers."""
        texts, all_spans = zip(*map(self._find_spans, conversations), strict=True)
        encoded = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        for ids, offsets, spans in zip(encoded["input_ids"], encoded["offset_mapping"], all_spans, strict=True):
            labels = [
                token if any(begin <= first and last <= end and last > first for begin, end in spans) else IGNORED
                for token, (first, last) in zip(ids, offsets, strict=True)
            ]
            yield Tokenised(list(ids), labels)

    def _find_spans(self, messages: list[dict[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        """Return a conversation as text, and where in it the assistant's turns begin and end."""
        text: str = self._render(messages, tokenize=False)
        spans: list[tuple[int, int]] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before: str = self._render(messages[:number], tokenize=False, add_generation_prompt=True) if number else ""
            until: str = self._render(messages[: number + 1], tokenize=False)
            if not text.startswith(before) or not text.startswith(until):
                raise ConfigInvalid(
                    "the model's chat template renders earlier turns differently once later ones follow, so that the assistant's turns "
                    "can't be told apart. Set training.lossOn to all, put one exchange in each row, or add {% generation %} markers to the "
                    "template"
                )
            spans.append((len(before), len(until)))
        return text, spans

    def _settle_without_template(self, format_: str) -> None:
        vocabulary = self._tokenizer.get_vocab()
        if all(token in vocabulary for token in _CHATML_TOKENS):
            logger.warning("the model has no chat template; it has ChatML's tokens, so ChatML is used, and saved with the adapter")
            self._tokenizer.chat_template = CHATML
        elif format_ == "instruction":
            logger.warning("the model has no chat template; instructions are written as plain text (### Instruction, ### Response)")
            self.conversational, self._plain_instruction = False, True
        else:
            raise ConfigInvalid(
                "the data are conversations, but the model's tokenizer has no chat template (and no <|im_start|> and <|im_end|> tokens for "
                "ChatML). Name the instruct version of the model, put a chat_template.jinja in the model's folder, or give the data as "
                "texts in prompt and completion"
            )

    def _choose_masking(self) -> None:
        template = self._tokenizer.chat_template
        if isinstance(template, dict):
            template = template["default"]
        if _GENERATION.search(template):
            return
        from trl.chat_template_utils import get_training_chat_template  # noqa: PLC0415  trl takes seconds to import, and few runs need this

        try:
            self._template = get_training_chat_template(self._tokenizer)
        except ValueError:  # a template that TRL doesn't know
            self._by_prefix = True

    def _find_stop_ids(self) -> set[int]:
        stops = {self._tokenizer.eos_token_id} - {None}
        if self.conversational:
            text: str = self._render([{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}], tokenize=False)
            _, found, tail = text.rpartition(_PROBE)
            added = set(self._tokenizer.get_added_vocab().values())
            ids = self._tokenizer(tail, add_special_tokens=False)["input_ids"] if found and tail else []
            stops |= set([token for token in ids if token in added][:1])
        return stops


def build_plain_instruction(row: Row) -> Row:
    """Return an instruction as plain prompt and completion, for models without a chat template."""
    *system, user = (message["content"] for message in row["prompt"])
    head = "".join(f"{text}\n\n" for text in system)
    return {"prompt": f"{head}### Instruction:\n{user}\n\n### Response:\n", "completion": row["completion"][0]["content"]}


def _is_conversational(row: Row) -> bool:
    return isinstance(row.get("messages", row.get("prompt")), list)


def _end_with(text: str, eos: str) -> str:
    return text if text.endswith(eos) else text + eos


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return number
    return min(len(first), len(second))
