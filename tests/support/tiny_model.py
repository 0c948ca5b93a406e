"""A tokenizer and a model small enough for tests: byte-level BPE trained on a few lines, and a Llama of two layers."""

from pathlib import Path
from typing import Any

CORPUS = [
    "What does the function do? Return the sum of two numbers.",
    "### Instruction: say hello. ### Response: Hello, world!",
    "user assistant system The quick brown fox jumps over the lazy dog.",
] * 20

TEMPLATE_WITHOUT_MARKERS = (
    "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
TEMPLATE_WITH_MARKERS = (
    "{% for message in messages %}{{ '<|turn|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)


def build_tokenizer(chat_template: str | None = None, extra: tuple[str, ...] = ("<|turn|>", "<|end|>")) -> Any:
    """Build a tokenizer with ``<|eos|>``, ``<|pad|>`` and ``extra`` as added tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|eos|>", "<|pad|>", *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    built = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eos|>", pad_token="<|pad|>")
    built.chat_template = chat_template
    return built


def build_model(vocabulary: int, seed: int = 0) -> Any:
    """Build a seeded Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=512,
        )
    )


def save_tokenizer(folder: Path, chat_template: str | None = TEMPLATE_WITH_MARKERS) -> None:
    """Save a tokenizer into ``folder``."""
    build_tokenizer(chat_template).save_pretrained(folder)
