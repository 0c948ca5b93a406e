"""``finetune submit``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_cli.commands.options import Context, Kubeconfig, Namespace, Output
from finetune_cli.exit_codes import CliExit
from finetune_cli.output import OutputFormat, make_message_console


def submit(
    file: Annotated[Path, typer.Option("--file", "-f", metavar="FILE", help="Manifest, YAML or JSON; `-` is standard input.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show the run live until it has ended.")] = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="Estimate the GPU memory from the model's config.json, and ask for GPUs that have it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Let the server judge it, and create nothing.")] = False,
    namespace: Namespace = None,
    output: Output = OutputFormat.NAME,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Create the FineTuneJobs in a file, once they are valid. Safe to repeat: one that is there already with the same specification stays.

    Exit codes: 0 created (with --watch: and succeeded), 1 invalid, refused, or another run has the name, 4 with --watch: the run failed,
    6 the cluster can't be reached or you may not.
    """
    from finetune_cli.manifests import ManifestInvalid, read_manifests
    from finetune_cli.output import print_bodies

    messages = make_message_console()
    try:
        manifests = read_manifests(file)
    except ManifestInvalid as error:
        error.show(messages)
        raise typer.Exit(CliExit.INVALID) from None
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--file") from None
    if watch and len(manifests) != 1:
        raise typer.BadParameter(f"{file} holds {len(manifests)} FineTuneJobs; one can be watched", param_hint="--watch")
    if fit:
        manifests = [_fit(manifest) for manifest in manifests]
    from finetune_sdk import FineTuneClient

    with FineTuneClient(kubeconfig, context, namespace) as client:
        for manifest in manifests:
            given = (manifest.get("metadata") or {}).get("namespace")
            if namespace is not None and given not in (None, namespace):
                raise typer.BadParameter(f"the manifest says namespace {given}", param_hint="--namespace")
        runs = [client.submit(manifest, dry_run=dry_run) for manifest in manifests]
    if watch and not dry_run:
        from finetune_cli.live import follow_run

        raise typer.Exit(follow_run(runs[0].name, kubeconfig, context, runs[0].namespace))
    print_bodies([run.body for run in runs], OutputFormat.NAME if output is OutputFormat.TEXT else output, as_list=len(runs) > 1)
    if dry_run:
        messages.print("the server would take it", style="green")


def _fit(manifest: dict[str, Any]) -> dict[str, Any]:
    from finetune_api.estimate import ShapeUnknown
    from finetune_cli.fitting import build_fitted
    from finetune_cli.model_config import ConfigUnavailable

    messages = make_message_console()
    try:
        fitted = build_fitted(manifest)
    except (ShapeUnknown, ConfigUnavailable) as error:
        messages.print(f"error: --fit: {error}; set resources.minGpuMemory, or leave --fit out")
        raise typer.Exit(CliExit.INVALID) from None
    if fitted is not manifest:
        messages.print(f"resources.minGpuMemory: {fitted['spec']['resources']['minGpuMemory']} (estimated; see finetune estimate)")
    return fitted
