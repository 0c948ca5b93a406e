"""The model and the texts: this repository's own prose, which the base learns, and its programs, which the adapters learn.

Quantisation is no test of random weights: rounded, they are as random as before. So the base is trained first.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
HIDDEN, INTERMEDIATE, LAYERS, HEADS = 192, 512, 4, 6
VOCABULARY: Final = 2048
_HELD_OUT: Final = 48
_CHARACTERS: Final = 700
"""Of one text: somewhat less than a row of tokens."""
_SOURCES: Final = {
    "prose": ("docs", "*.md"),
    "programs": ("operator", "*.py"),
}


def make_workspace(folder: Path) -> None:
    """Write texts, tokenizer and a model of random weights into ``folder``. Loads torch."""
    import torch  # noqa: PLC0415  seconds to import
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    texts = {name: list(read_texts(*where)) for name, where in _SOURCES.items()}
    for name, found in texts.items():
        random.Random(7).shuffle(found)  # noqa: S311  an order, no secret
        for file, part in ((f"{name}-held-out", found[:_HELD_OUT]), (name, found[_HELD_OUT:])):
            (folder / f"{file}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    tokenizer = train_tokenizer([text for found in texts.values() for text in found[_HELD_OUT:]])
    torch.manual_seed(7)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=INTERMEDIATE,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder / "random")
    tokenizer.save_pretrained(folder / "random")


def read_texts(folder: str, pattern: str) -> Iterator[str]:
    """Yield pieces of the repository's files, cut at ends of lines."""
    for file in sorted((ROOT / folder).rglob(pattern)):
        piece = ""
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if len(piece) + len(line) > _CHARACTERS and piece.strip():
                yield piece
                piece = ""
            piece += line[:_CHARACTERS]
        if piece.strip():
            yield piece


def train_tokenizer(texts: list[str]) -> Any:
    """Return a byte-level BPE tokenizer of the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    marks = {"eos_token": "<|eos|>", "pad_token": "<|pad|>"}
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[*marks.values()], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)
