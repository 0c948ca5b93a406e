"""Make the quick start's base model: a small Llama, pre-trained from nothing on text of the Python installation.

The folder it prints has what a base model from a hub has: ``config.json``, ``generation_config.json``, safetensors weights, and a
tokenizer (byte-level BPE) with a chat template. It also has ``build.json``, written last: how the model was made, and each file's
size and SHA-256. The model writes something like manuals and code; it answers no questions: that is what fine-tuning adds.

The seed, the number of steps and the single thread are fixed, so the same Python, libraries and kind of processor make the same model.
"""

# ruff: noqa: PLC0415 - heavy libraries are loaded where they are used, after the arguments have been checked

import argparse
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import corpus

FOLDER_NAME = "model"
BUILD_FILE = "build.json"
END, PAD, SYSTEM, USER, ASSISTANT = "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"
"""Special tokens. ``END`` ends a document, a turn and an answer alike: it is the EOS token."""
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '" + END + "' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '" + END + "' }}{%- endif %}"
    "{{- '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"
)
"""Roles system, user and assistant; an assistant's words and their end are marked as what may be learnt."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the model is made by. Lengths are in tokens."""

    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    intermediate: int = 704
    context: int = 1024
    steps: int = 350
    batch: int = 4
    length: int = 128
    learning_rate: float = 1e-3
    embedding_learning_rate: float = 5e-3
    warmup_steps: int = 20
    seed: int = 20240
    threads: int = 1


def compute_key(recipe: Recipe) -> str:
    """Return what the cached model goes by: it changes with these scripts, the recipe and Python's minor version."""
    digest = hashlib.sha256(json.dumps([asdict(recipe), sys.version_info[:2]]).encode())
    for name in ("base_model.py", "corpus.py", "dataset.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]


def locate_cache() -> Path:
    """Return the folder of the quick start's cache: below ``FINETUNE_CACHE``, or below the user's own cache."""
    own = os.environ.get("FINETUNE_CACHE")
    if own:
        return Path(own).expanduser() / "quickstart"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "finetune-operator" / "quickstart"


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds a model with every file as its ``build.json`` describes it."""
    try:
        files = json.loads((folder / BUILD_FILE).read_text(encoding="utf-8"))["files"]
        return bool(files) and all(_describe_file(folder / name) == entry for name, entry in files.items())
    except (OSError, ValueError, KeyError):
        return False


def ensure_model(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Put a model at ``folder`` unless a whole one lies there; return its build record, or None where nothing was to be done.

    Of several at once, one builds and the others wait for it.
    """
    if is_complete(folder):
        return None
    with _locked(folder):
        return None if is_complete(folder) else _build(folder, recipe)


def build_model(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Pre-train a model by ``recipe`` and put it at ``folder``, whole or not at all, in place of an older one; return its build record."""
    with _locked(folder):
        return _build(folder, recipe)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others from building ``folder``. The system lifts the lock when the process ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another process is building {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(folder: Path, recipe: Recipe) -> dict[str, Any]:
    prefix = f".{folder.name}-"
    for left_over in folder.parent.glob(f"{prefix}*"):  # of a build that was killed: the lock says that none is at work
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        made = Path(scratch) / FOLDER_NAME
        made.mkdir()
        record = _train_and_save(made, recipe)
        record["files"] = {path.name: _describe_file(path) for path in sorted(made.iterdir())}
        (made / BUILD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch) / "replaced")
        made.rename(folder)
    return record


def build_tokenizer(texts: list[str], vocabulary: int) -> Any:  # noqa: ANN401 - transformers types its tokenizers loosely
    """Return a byte-level BPE tokenizer of at most ``vocabulary`` tokens learnt from ``texts``; it adds no token by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _train_and_save(folder: Path, recipe: Recipe) -> dict[str, Any]:
    _say("loading libraries")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch
    import transformers

    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    try:
        texts = corpus.build_corpus()
        _say(f"learning a tokenizer from {len(texts)} documents, {sum(map(len, texts)):,} characters")
        tokenizer = build_tokenizer(texts, recipe.vocabulary)
        model: Any = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=recipe.vocabulary,
                hidden_size=recipe.hidden,
                intermediate_size=recipe.intermediate,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.key_value_heads,
                max_position_embeddings=recipe.context,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        stream = torch.tensor([token for text in texts for token in tokenizer(text + END)["input_ids"]])
        started = time.monotonic()
        losses = _pretrain(model, stream, recipe)
        seconds = time.monotonic() - started
        model.generation_config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128
        )
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        torch.set_num_threads(threads)
    return {
        "recipe": asdict(recipe),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": model.num_parameters(),
        "corpusDocuments": len(texts),
        "corpusTokens": len(stream),
        "firstLoss": losses[0],
        "lastLoss": sum(losses[-20:]) / len(losses[-20:]),
        "seconds": round(seconds, 1),
        "license": "PSF-2.0 (the text that it was trained on)",
    }


def _pretrain(model: Any, stream: Any, recipe: Recipe) -> list[float]:  # noqa: ANN401 - torch is imported where it is needed
    """Train ``model`` in place on windows of ``stream`` (a 1-D tensor of token ids); return each step's loss in nats a token."""
    import torch

    embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    peaks = {True: recipe.embedding_learning_rate, False: recipe.learning_rate}
    groups = [
        {"params": [item for item in model.parameters() if (id(item) in embeddings) is embedding], "lr": peak, "peak": peak}
        for embedding, peak in peaks.items()
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.0)
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    batches = _batches(stream, recipe)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate_share(step, recipe)
        batch = next(batches)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise RuntimeError(f"pre-training diverged: the loss is {losses[-1]} at step {step + 1}")
        if (step + 1) % max(1, recipe.steps // 20) == 0:
            elapsed = time.monotonic() - started
            left = elapsed / (step + 1) * (recipe.steps - step - 1)
            _say(f"pre-training: step {step + 1}/{recipe.steps}, loss {losses[-1]:.2f}, {elapsed:.0f} s, about {left:.0f} s left")
    return losses


def _batches(stream: Any, recipe: Recipe) -> Iterator[Any]:  # noqa: ANN401
    """Yield batches (batch x length) without end: each pass cuts the stream anew at a random offset and shuffles the windows."""
    import torch

    random = torch.Generator().manual_seed(recipe.seed)
    while True:
        offset = int(torch.randint(recipe.length, (1,), generator=random))
        count = (len(stream) - offset) // recipe.length
        windows = stream[offset : offset + count * recipe.length].view(count, recipe.length)
        order = torch.randperm(count, generator=random)
        for first in range(0, count - recipe.batch + 1, recipe.batch):
            yield windows[order[first : first + recipe.batch]]


def _rate_share(step: int, recipe: Recipe) -> float:
    """Return the share of the peak learning rate at ``step``: a linear rise, then half a cosine down to a twentieth."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    share = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2


def _describe_file(path: Path) -> dict[str, Any]:
    return {"sizeBytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _say(message: str) -> None:
    print(f"base model: {message}", file=sys.stderr, flush=True)


def main() -> None:
    """Build the model, or find it in the cache, and print its folder as the last line."""
    parser = argparse.ArgumentParser(description="Make the quick start's base model.")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder for the model; the default is one in the cache")
    parser.add_argument("--if-missing", action="store_true", help="do nothing where a whole model lies there already")
    parser.add_argument("--steps", type=int, default=Recipe().steps, help="optimizer steps of the pre-training (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    recipe = Recipe(steps=arguments.steps)
    folder: Path = arguments.output or locate_cache() / compute_key(recipe) / FOLDER_NAME
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what is half made is removed
    record = ensure_model(folder, recipe) if arguments.if_missing else build_model(folder, recipe)
    if record is None:
        _say(f"found {folder}")
    else:
        _say(f"{record['parameters']:,} parameters, loss {record['firstLoss']:.2f} -> {record['lastLoss']:.2f} in {record['seconds']} s")
    print(folder)


if __name__ == "__main__":
    main()
