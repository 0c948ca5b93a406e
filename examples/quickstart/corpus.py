"""The text that the quick start's base model is pre-trained on: prose and code that every Python installation carries.

It holds the language reference (``pydoc_data.topics``) and the beginnings of the sources of those modules of the standard library that
the quick start does not ask about, so that no answer which is held out has been read before. Only the standard library is needed.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import dataset

_LEFT_OUT = frozenset(
    {"config", "ensurepip", "encodings", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tests", "turtledemo"}
)
"""Folders of tests, tools and tables, or that not every installation has."""
_SHORTEST = 40
"""Shortest document in characters."""
_LONGEST = 4000
"""Characters of a source file that are read: the beginning says what it is about, and prose must not drown in code."""


def build_corpus() -> list[str]:
    """Return the documents, each once, in an order that depends on the installation's files alone."""
    return list(dict.fromkeys(text for text in _documents() if len(text) >= _SHORTEST))


def _documents() -> Iterator[str]:
    for _, text in sorted(topics.items()):
        yield text.strip()
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library).with_suffix("")
        if _LEFT_OUT.isdisjoint(name.parts) and not _is_asked_about(name):
            yield _read(path)[:_LONGEST].strip()


def _is_asked_about(name: Path) -> bool:
    """Whether a module is one of the dataset's, or implements one: ``_pydecimal``, ``_py_abc``, ``_collections_abc``."""
    root = _bare(name.parts[0])
    return any(
        root == module or root.startswith(f"{module}_") for module in {_bare(module.partition(".")[0]) for module in dataset.MODULES}
    )


def _bare(module: str) -> str:
    return module.lstrip("_").removeprefix("py").lstrip("_")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""  # bad examples lie among the sources
