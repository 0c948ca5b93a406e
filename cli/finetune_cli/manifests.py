"""Reading the one manifest that a command works on."""

from pathlib import Path
from typing import Any

from rich.console import Console

from finetune_api.names import KIND
from finetune_cli.validate import FaultFound, Verdict, compute_verdicts, decode, is_valid, print_text, read_source
from finetune_cli.yaml_reader import read_documents


class ManifestInvalid(Exception):
    """A file that holds no FineTuneJob, or one with faults."""

    def __init__(self, verdicts: list[Verdict]) -> None:
        super().__init__("the manifest is invalid")
        self.verdicts = verdicts

    def show(self, console: Console) -> None:
        """Print every fault."""
        print_text([verdict for verdict in self.verdicts if verdict.faults], console)


def read_manifests(path: Path) -> list[dict[str, Any]]:
    """Return the FineTuneJobs in a file, each held to all that can be known without a cluster.

    :raises ManifestInvalid: names every fault of all of them.
    :raises OSError: the file can't be read.
    """
    source = "<stdin>" if str(path) == "-" else str(path)
    content = read_source(path)
    verdicts = list(compute_verdicts(source, content))
    if not is_valid(verdicts):
        raise ManifestInvalid(verdicts)
    documents = [document.value for document in read_documents(decode(content))]
    jobs = [document for document in documents if isinstance(document, dict) and document.get("kind") == KIND]
    if not jobs:
        raise ManifestInvalid(
            [Verdict(source, faults=[FaultFound(f"holds no {KIND}; other kinds are kubectl's: kubectl apply -f {source}")])]
        )
    return jobs


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the one FineTuneJob in a file.

    :raises ManifestInvalid: it has faults, or there are several.
    """
    manifests = read_manifests(path)
    if len(manifests) != 1:
        names = ", ".join(str(each["metadata"].get("name", "(named later)")) for each in manifests)
        raise ManifestInvalid(
            [Verdict(str(path), faults=[FaultFound(f"holds {len(manifests)} FineTuneJobs ({names}); this command takes one")])]
        )
    return manifests[0]
