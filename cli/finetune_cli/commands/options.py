"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.output import OutputFormat


def _complete_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of runs that begin with ``incomplete``, for the shell; none where the cluster doesn't answer."""
    from finetune_sdk import FineTuneClient, FinetuneError

    given = context.params
    try:
        with FineTuneClient(given.get("kubeconfig"), given.get("context"), given.get("namespace")) as client:
            return [run.name for run in client.list_runs() if run.name.startswith(incomplete)]
    except FinetuneError:
        return []


_CLUSTER = "Cluster"
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace; by default the context's.", rich_help_panel=_CLUSTER)]
Context = Annotated[
    str | None, typer.Option("--context", help="Context of the kubeconfig; by default the current one.", rich_help_panel=_CLUSTER)
]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="Kubeconfig file; by default KUBECONFIG, then ~/.kube/config.", rich_help_panel=_CLUSTER)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the FineTuneJob.", autocompletion=_complete_names)]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of FineTuneJobs.", autocompletion=_complete_names)]
Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="Form of the result.")]
File = Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="Manifest, YAML or JSON; `-` is standard input.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
Timeout = Annotated[str | None, typer.Option("--timeout", help="Longest wait: 90s, 30m, 12h, 2d. Without it, waits for good.")]


def parse_duration(text: str | None) -> float | None:
    """Return a duration such as ``90s`` or ``2h`` in seconds.

    :raises typer.BadParameter: it is none.
    """
    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 30m, 12h or 2d", param_hint="--timeout")
    return seconds


def parse_settings(settings: list[str]) -> dict[str, object]:
    """Return ``PATH=VALUE`` settings by path; values are read as YAML, as in a manifest.

    :raises typer.BadParameter: one has no ``=``.
    """
    from finetune_cli.yaml_reader import YamlInvalid, read_documents

    parsed: dict[str, object] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            raise typer.BadParameter(f"{setting!r} is no setting; write training.learningRate=1e-4", param_hint="--set")
        try:
            parsed[path] = next((document.value for document in read_documents(value)), None)
        except YamlInvalid as error:
            raise typer.BadParameter(f"{setting!r}: {error}", param_hint="--set") from None
    return parsed
