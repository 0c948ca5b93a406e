"""Ask the base model and its fine-tuned adapter the same held-out questions, and compare.

Prints one question with both answers, and the loss of each on all held-out rows: the mean over the tokens of the completions and the
EOS token after each, in nats. Answers are greedy, and repeat no pair of tokens: a model this small would turn in circles. The exit
status is 0 where the adapter's loss is lower, 1 where it is not, 2 on wrong input.
"""

# ruff: noqa: PLC0415 - heavy libraries are loaded where they are used, after the arguments have been checked

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dataset


@dataclass(frozen=True, slots=True)
class Answer:
    """One question with what the models say. Losses are in nats a token."""

    question: str
    expected: str
    before: str
    before_ended: bool
    after: str
    after_ended: bool
    base_loss: float
    adapter_loss: float
    held_out_rows: int

    @property
    def is_better(self) -> bool:
        """Whether the adapter has learnt what carries over to the held-out rows."""
        return self.adapter_loss < self.base_loss


def compare(base: Path, adapter: Path, rows: list[dataset.Row], question: int, new_tokens: int) -> Answer:
    """Load ``base``, and ``adapter`` on top of it, and hold both to ``rows``; row number ``question`` is also answered."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(model, adapter).eval()
    row = rows[question]
    with torch.inference_mode():
        after = _generate(tuned, tokenizer, row.prompt, new_tokens)
        adapter_loss = compute_loss(tuned, tokenizer, rows)
        with tuned.disable_adapter():
            before = _generate(tuned, tokenizer, row.prompt, new_tokens)
            base_loss = compute_loss(tuned, tokenizer, rows)
    return Answer(row.prompt.strip(), row.completion, *before, *after, base_loss, adapter_loss, len(rows))


def compute_loss(model: Any, tokenizer: Any, rows: list[dataset.Row]) -> float:  # noqa: ANN401 - torch is imported late
    """Return the mean loss over the tokens of all completions, each with its EOS token; prompts are read but not counted."""
    import torch

    total = 0.0
    counted = 0
    for row in rows:
        prompt = tokenizer(row.prompt)["input_ids"]
        completion = tokenizer(row.completion + tokenizer.eos_token)["input_ids"]
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(completion), reduction="sum"))
        counted += len(completion)
    return total / counted


def _generate(model: Any, tokenizer: Any, prompt: str, new_tokens: int) -> tuple[str, bool]:  # noqa: ANN401
    """Return the greedy answer to ``prompt``, and whether the model ended it by itself."""
    encoded = tokenizer(prompt, return_tensors="pt")
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    output = model.generate(**inputs, do_sample=False, no_repeat_ngram_size=2, max_new_tokens=new_tokens)[
        0, inputs["input_ids"].shape[1] :
    ].tolist()
    return tokenizer.decode(output, skip_special_tokens=True).strip(), tokenizer.eos_token_id in output


def _print_answer(answer: Answer) -> None:
    print(f"A question that no model has seen: {answer.question}")
    for label, text, ended in (
        ("before", answer.before, answer.before_ended),
        ("after", answer.after, answer.after_ended),
        ("its documentation", answer.expected, True),
    ):
        print(f"  {label}: {' '.join(text.split())}{'' if ended else ' …'}")
    print(f"Loss on {answer.held_out_rows} held-out rows: base {answer.base_loss:.3f}, adapter {answer.adapter_loss:.3f}")


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the base model and the adapter on held-out questions.")
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER", help="the base model")
    parser.add_argument("--adapter", type=Path, required=True, metavar="FOLDER", help="the adapter in PEFT's format")
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE", help=f"held-out rows: {dataset.HELD_OUT_FILE}")
    parser.add_argument("--question", type=int, default=0, metavar="N", help="number of the row that is answered (default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=60, metavar="N", help="longest answer in tokens (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    for path in (arguments.base / "config.json", arguments.adapter / "adapter_config.json", arguments.rows):
        if not path.is_file():
            parser.error(f"{path} is missing")
    return arguments


def main() -> int:
    """Compare, print, and return the exit status."""
    arguments = _read_arguments()
    rows = dataset.read_rows(arguments.rows)
    if not 0 <= arguments.question < len(rows):
        print(f"--question must lie between 0 and {len(rows) - 1}", file=sys.stderr)
        return 2
    logging.captureWarnings(capture=True)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional kernel, and nothing here is quantised
    answer = compare(arguments.base, arguments.adapter, rows, arguments.question, arguments.new_tokens)
    if arguments.json:
        print(json.dumps({**asdict(answer), "is_better": answer.is_better}, indent=2, ensure_ascii=False))
    else:
        _print_answer(answer)
    return 0 if answer.is_better else 1


if __name__ == "__main__":
    sys.exit(main())
