"""Bad data files of every kind we know, and the page of the reference that shows the message that each gets.

``python -m tests.support.bad_data`` writes the page anew; a test holds it to what the trainer says.
"""

import gzip
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.spec import DatasetSpec
from finetune_api.spec.objective import Objective
from finetune_trainer.data.examples import load_examples
from finetune_trainer.errors import TrainerError

PAGE = Path(__file__).parents[2] / "docs/reference/bad-data.md"
_SHOWN = 700


@dataclass(frozen=True)
class BadFile:
    """A file that can't be learnt from."""

    what: str
    name: str
    content: bytes
    objective: Objective = "sft"
    dataset: dict[str, Any] = field(default_factory=dict)


def _lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _chat(*turns: tuple[str, Any], **more: Any) -> bytes:
    return _lines({"messages": [{"role": role, "content": content} for role, content in turns], **more})


_GOOD = {"prompt": "Hi", "completion": "Hello"}
_PARQUET = b"PAR1" + b"\x00" * 32

BAD_FILES = (
    # Files
    BadFile("Empty file", "data.jsonl", b""),
    BadFile("Nothing but blank lines", "data.jsonl", b"\n  \n\n"),
    BadFile("An empty list", "data.json", b"[]"),
    BadFile("UTF-16", "data.jsonl", '{"text": "x"}'.encode("utf-16")),
    BadFile("Latin-1", "data.jsonl", _lines({"text": "x"}) + b'{"text": "caf\xe9"}\n'),
    BadFile("A ZIP archive by the name of a JSON file", "data.jsonl", b"PK\x03\x04\x14\x00\x00\x00\x08\x00\xff\xfe"),
    BadFile("Gzip, cut off", "data.jsonl.gz", gzip.compress(_lines(_GOOD) * 50, mtime=0)[:-12]),
    BadFile("Plain text by the name of a gzip file", "data.jsonl.gz", _lines(_GOOD)),
    BadFile("Parquet, cut off", "data.parquet", _PARQUET),
    BadFile("A file of another kind", "data.xlsx", b"PK"),
    BadFile("A loading script", "data.py", b"import datasets\n"),
    # Lines
    BadFile("A line cut off", "data.jsonl", _lines(_GOOD) + b'{"prompt": "Hi", "compl\n' + _lines(_GOOD)),
    BadFile("One giant line: two objects without a line break", "data.jsonl", b'{"text": "' + b"x" * 100_000 + b'"}{"text": "y"}'),
    BadFile("Python's own way of writing a dict", "data.jsonl", b"{'prompt': 'Hi', 'completion': 'Hello'}\n"),
    BadFile("NaN", "data.jsonl", b'{"prompt": "Hi", "completion": NaN}\n'),
    BadFile("A list instead of an object", "data.jsonl", b'["Hi", "Hello"]\n'),
    BadFile("Nested without end", "data.json", b"[" * 100_000),
    BadFile("A JSON object that holds no rows", "data.json", b'{"version": 1, "items": {}}'),
    BadFile("CSV with fields too few and too many", "data.csv", b"prompt,completion\nHi,Hello\nHi\nHi,Hello,there\n"),
    BadFile("CSV with the same column twice", "data.csv", b"text,text\na,b\n"),
    BadFile("CSV with a quote that is never closed", "data.csv", b'text\n"never closed\n'),
    BadFile("More than twenty faults", "data.jsonl", b"x\n" * 25),
    # Columns
    BadFile("Unknown columns", "data.jsonl", _lines({"question": "Hi", "reply": "Hello"})),
    BadFile("Columns of two formats", "data.jsonl", _lines({"messages": [], "prompt": "Hi", "completion": "Hello"})),
    BadFile("Formats mixed from row to row", "data.jsonl", _lines(_GOOD, {"text": "x"})),
    BadFile("A column named in dataset.columns that isn't there", "data.jsonl", _lines(_GOOD), dataset={"columns": {"prompt": "question"}}),
    BadFile("Images", "data.jsonl", _lines({**_GOOD, "image": "cat.png"})),
    BadFile("Tool calls", "data.jsonl", _chat(("user", "Hi"), ("assistant", "Hello"), tools=[{"name": "search"}])),
    # Values
    BadFile("Answer missing", "data.jsonl", _lines(_GOOD, {"prompt": "Hi", "completion": None}), dataset={"format": "prompt-completion"}),
    BadFile("Answer empty", "data.jsonl", _lines({"prompt": "Hi", "completion": "  "})),
    BadFile("Answer is a number", "data.jsonl", _lines({"prompt": "Hi", "completion": 7})),
    BadFile("Half a surrogate pair", "data.jsonl", b'{"prompt": "Hi", "completion": "\\ud83d"}\n'),
    BadFile(
        "Texts in some rows, messages in others",
        "data.jsonl",
        _lines(_GOOD, {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]}),
    ),
    # Conversations
    BadFile("An unknown role", "data.jsonl", _chat(("human", "Hi"), ("assistant", "Hello"))),
    BadFile("A tool's turn", "data.jsonl", _chat(("user", "Hi"), ("tool", "42"), ("assistant", "Hello"))),
    BadFile("No answer of the assistant", "data.jsonl", _chat(("user", "Hi"))),
    BadFile("The system's turn in the midst", "data.jsonl", _chat(("user", "Hi"), ("system", "Be brief."), ("assistant", "Hello"))),
    BadFile("An image in a message", "data.jsonl", _chat(("user", [{"type": "image_url"}]), ("assistant", "Hello"))),
    BadFile("Messages as one text", "data.jsonl", _lines({"messages": "user: Hi"})),
    # Objectives
    BadFile("Conversations for pre-training", "data.jsonl", _chat(("user", "Hi"), ("assistant", "Hello")), "pretrain"),
    BadFile("Answers without preference for dpo", "data.jsonl", _lines(_GOOD), "dpo"),
    BadFile("Preferences for sft", "data.jsonl", _lines({"prompt": "Hi", "chosen": "a", "rejected": "b"})),
    BadFile("Labelled answers for sft", "data.jsonl", _lines({**_GOOD, "label": True})),
    BadFile("Chosen and rejected equal", "data.jsonl", _lines({"prompt": "Hi", "chosen": "a", "rejected": "a"}), "dpo"),
    BadFile(
        "Chosen and rejected without a common prompt",
        "data.jsonl",
        _lines(
            {
                "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
            }
        ),
        "dpo",
    ),
    BadFile("A label that is neither true nor false", "data.jsonl", _lines({**_GOOD, "label": "maybe"}), "kto"),
    BadFile(
        "A prompt that ends with an answer",
        "data.jsonl",
        _lines({"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}),
        "grpo",
    ),
    # Shares
    BadFile(
        "More malformed rows than maxMalformedFraction lets pass",
        "data.jsonl",
        _lines(*[_GOOD] * 8) + b"x\ny\n",
        dataset={"maxMalformedFraction": 0.1},
    ),
)


def read(bad: BadFile, folder: Path) -> str:
    """Return the message that ``bad`` gets, as the summary has it."""
    (folder / bad.name).write_bytes(bad.content)
    dataset = DatasetSpec.model_validate({"uri": f"file://{folder}/{bad.name}", **bad.dataset})
    try:
        load_examples(dataset, 42, folder / "work", {}, bad.objective)
    except TrainerError as error:
        return error.message.replace(str(folder), "/data")
    raise AssertionError(f"{bad.what}: it was read")


def build_page() -> str:
    """Return the page."""
    rows = []
    for bad in BAD_FILES:
        with tempfile.TemporaryDirectory() as folder:
            message = read(bad, Path(folder))
        shown = message if len(message) <= _SHOWN else message[:_SHOWN] + " …"
        text = shown.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("\n", "<br>")
        rows.append(f"| {bad.what} | `{bad.name}`{'' if bad.objective == 'sft' else f', {bad.objective}'} | {text} |")
    return (
        "<!-- Generated by `python -m tests.support.bad_data`. Do not edit. -->\n# Bad data\n\n"
        f"{len(rows)} kinds of files that can't be learnt from, and the message that each gets: in status, summary and log. "
        "Each is found before the model is loaded, and ends the run with the reason `DataInvalid`. "
        "Malformed rows are named with their line, up to twenty of them.\n\n"
        "| what | file, objective | message |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
