"""Make the quick start's data: questions about the standard library, answered by its own documentation.

A row is ``{"prompt": "What does `bisect.insort` do?\\n", "completion": "Insert item x in list a, …"}``: the name of a public function,
method or class, and the first paragraph of its docstring on one line. Rows whose turn it is by the digest of their name are held out,
in a file of their own, so that the same questions stay unseen whatever seed a run has.

The result depends on the Python version alone: the modules below exist on every platform and document themselves alike there.

Source: docstrings of CPython's standard library. Licence: PSF-2.0. Only the standard library is needed to run this.
"""

import argparse
import hashlib
import importlib
import inspect
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

MODULES = (
    *("abc", "argparse", "array", "ast", "asyncio.events", "asyncio.futures", "asyncio.locks", "asyncio.protocols", "asyncio.queues"),
    *("asyncio.runners", "asyncio.streams", "asyncio.tasks", "asyncio.transports", "base64", "bdb", "bisect", "calendar", "cmath"),
    *("cmd", "code", "codecs", "collections", "collections.abc", "colorsys", "concurrent.futures", "configparser", "contextlib"),
    *("copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "dis", "email.message", "email.policy", "email.utils", "enum"),
    *("filecmp", "fileinput", "fnmatch", "fractions", "ftplib", "functools", "gettext", "glob", "graphlib", "gzip", "heapq", "hmac"),
    *("html", "html.parser", "http.client", "http.cookiejar", "http.cookies", "http.server", "imaplib", "importlib", "importlib.abc"),
    *("importlib.resources", "importlib.util", "inspect", "io", "ipaddress", "itertools", "json", "keyword", "linecache", "locale"),
    *("logging", "logging.config", "logging.handlers", "mailbox", "math", "mimetypes", "modulefinder", "netrc", "numbers", "operator"),
    *("optparse", "pathlib", "pdb", "pickle", "pickletools", "pkgutil", "plistlib", "poplib", "pprint", "profile", "pstats"),
    *("py_compile", "pyclbr", "pydoc", "queue", "quopri", "random", "re", "reprlib", "runpy", "sched", "secrets", "shelve", "shlex"),
    *("shutil", "smtplib", "statistics", "string", "stringprep", "struct", "symtable", "tabnanny", "tarfile", "tempfile", "textwrap"),
    *("threading", "timeit", "token", "tokenize", "trace", "traceback", "tracemalloc", "types", "typing", "unicodedata", "unittest"),
    *("unittest.mock", "urllib.parse", "urllib.request", "urllib.robotparser", "uuid", "warnings", "wave", "weakref"),
    *("xml.dom.minidom", "xml.etree.ElementTree", "xml.sax", "zipapp", "zipfile", "zlib"),
)
"""Modules that are asked about; none of them is bound to a platform."""
HELD_OUT_ONE_IN = 12
"""One row in this many is held out."""
COMPLETION_CHARACTERS = (20, 200)
"""Shortest and longest completion: a shorter one says nothing, a longer one costs the quick start its time."""
TRAIN_FILE = "stdlib-docs.jsonl"
HELD_OUT_FILE = "stdlib-docs-heldout.jsonl"
NOTE_FILE = "SOURCE.md"

_SIGNATURE = re.compile(r"^[\w.]+\(.*?\)(\s*-+>\s*[\w.\[\], |()]+?)?(?=$|\s[A-Z]|\s*--)[\s:.-]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One question and its answer."""

    prompt: str
    completion: str


def build_rows(modules: Iterable[str] = MODULES) -> list[Row]:
    """Return a row for each public name of ``modules`` that is documented, sorted by prompt; prompts and completions are unique.

    A completion that several names share (``close`` in many classes) is kept for the first name only: otherwise it would be
    learnt from one row and found again in a held-out one.

    :raises RuntimeError: Python runs without docstrings (``-OO``).
    """
    if sys.flags.optimize >= 2:
        raise RuntimeError("Python runs with -OO (or PYTHONOPTIMIZE=2), which strips docstrings; run it without")
    answers: dict[str, str] = {}
    for name in sorted(set(modules)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = importlib.import_module(name)
        for prompt, docstring in _documented(module):
            completion = first_paragraph(docstring)
            if completion is not None:
                answers.setdefault(prompt, completion)
    rows: list[Row] = []
    seen: set[str] = set()
    for prompt, completion in sorted(answers.items()):
        if completion.casefold() not in seen:
            seen.add(completion.casefold())
            rows.append(Row(prompt, completion))
    return rows


def split_rows(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows to learn from and those held out; a row's side depends on its prompt alone."""
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        turn = int.from_bytes(hashlib.sha256(row.prompt.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN
        (held_out if turn == 0 else train).append(row)
    return train, held_out


def first_paragraph(docstring: str) -> str | None:
    """Return the first paragraph of ``docstring`` on one line and without a leading signature, or None where it is no sentence."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        text = _SIGNATURE.sub("", " ".join(paragraph.split()))
        if not text:
            continue  # a signature by itself: C functions have it above their text
        shortest, longest = COMPLETION_CHARACTERS
        is_sentence = text[0].isupper() and text[-1] in ".!" and " " in text and shortest <= len(text) <= longest
        return text if is_sentence and ">>>" not in text else None
    return None


def _documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield a prompt and a docstring for what ``module`` itself makes public."""
    exported = getattr(module, "__all__", None)
    for name in sorted(exported if exported is not None else vars(module)):
        value = vars(module).get(name)
        if name.startswith("_") or not isinstance(docstring := getattr(value, "__doc__", None), str):
            continue
        if inspect.isclass(value):
            if value.__name__ != name or value.__module__ == "builtins" or (exported is None and value.__module__ != module.__name__):
                continue  # another name for a class that is asked about under its own
            if not _is_inherited(value):
                yield f"What is `{module.__name__}.{name}`?\n", docstring
            yield from _documented_methods(f"{module.__name__}.{name}", value)
        elif inspect.isroutine(value) and (exported is not None or value.__module__ == module.__name__):
            yield f"What does `{module.__name__}.{name}` do?\n", docstring


def _documented_methods(path: str, owner: type) -> Iterator[tuple[str, str]]:
    for name, member in sorted(vars(owner).items()):
        docstring = getattr(member, "__doc__", None)
        if not name.startswith("_") and isinstance(docstring, str) and (inspect.isroutine(member) or isinstance(member, property)):
            verb = "What is" if isinstance(member, property) else "What does"
            yield f"{verb} `{path}.{name}`{'' if isinstance(member, property) else ' do'}?\n", docstring


def _is_inherited(owner: type) -> bool:
    return any(owner.__doc__ == base.__doc__ for base in owner.__mro__[1:])


def write_dataset(folder: Path) -> tuple[int, int]:
    """Write both files and the note on their source into ``folder``; return the number of rows to learn from and held out."""
    train, held_out = split_rows(build_rows())
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in ((TRAIN_FILE, train), (HELD_OUT_FILE, held_out)):
        _write_text(folder / name, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))
    _write_text(folder / NOTE_FILE, _build_note(len(train), len(held_out)))
    return len(train), len(held_out)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file that :func:`write_dataset` wrote."""
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def _build_note(train: int, held_out: int) -> str:
    return (
        "# Questions about Python's standard library\n\n"
        f"- `{TRAIN_FILE}`: {train} rows to learn from; `{HELD_OUT_FILE}`: {held_out} rows that are never learnt.\n"
        "- A row: `prompt` asks for a public function, method or class; `completion` is the first paragraph of its docstring.\n"
        f"- Source: docstrings of the standard library of CPython {sys.version.split()[0]}.\n"
        "- Licence: PSF-2.0 (Python Software Foundation License Version 2), Copyright (c) 2001 Python Software Foundation;\n"
        "  All Rights Reserved. https://docs.python.org/3/license.html\n"
    )


def main() -> None:
    """Write the data into the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Make the quick start's data from the standard library's docstrings.")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write into")
    folder: Path = parser.parse_args().output
    train, held_out = write_dataset(folder)
    print(f"{folder / TRAIN_FILE}: {train} rows; {folder / HELD_OUT_FILE}: {held_out} rows held out")


if __name__ == "__main__":
    main()
