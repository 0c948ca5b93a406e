"""``finetune artifacts``: list and download what a run has published."""

from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.commands.options import Context, Kubeconfig, Name, Namespace
from finetune_cli.output import DataFormat, make_console, make_message_console

artifacts_app = typer.Typer(help="List and download what a run has published.", no_args_is_help=True)


@artifacts_app.command("list")
def list_artifacts(
    name: Name,
    output: Annotated[DataFormat, typer.Option("--output", "-o", help="Form of the result.")] = DataFormat.TEXT,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the artifacts of a run: format, size, digest and URI."""
    from finetune_cli.output import print_data, print_table
    from finetune_cli.tables import build_artifact_table
    from finetune_sdk import FineTuneClient

    with FineTuneClient(kubeconfig, context, namespace) as client:
        run = client.get(name)
    if output is not DataFormat.TEXT:
        print_data([each.model_dump(mode="json") for each in run.status.artifacts], output)
    elif not run.status.artifacts:
        make_message_console().print(f"{name} has published nothing; it is {run.phase or 'new'}")
    else:
        print_table(build_artifact_table(run), make_console())


@artifacts_app.command()
def download(
    name: Name,
    folder: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="Where to put the files; by default NAME-ARTIFACT.")] = None,
    artifact: Annotated[str, typer.Option("--artifact", help="Which one.")] = "adapter",
    endpoint_url: Annotated[
        str | None, typer.Option("--endpoint-url", help="Endpoint of an S3-compatible store, as seen from here.")
    ] = None,
    with_secret: Annotated[
        bool, typer.Option("--with-secret", help="Read the store's credentials from the run's own Secret, which takes the right to.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Download an artifact and check every file's digest, down from the one in the run's status.

    Can be repeated: files that are there and whole stay. Credentials are those of your environment (AWS_ACCESS_KEY_ID…, your profile),
    unless --with-secret. Exit codes: 0 all files are there and verified, 3 no such run, artifact or file, 8 a digest doesn't match.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from finetune_sdk import ArtifactUnreachable, FineTuneClient
    from finetune_sdk.artifacts import download_artifact

    credentials: dict[str, str] = {}
    with FineTuneClient(kubeconfig, context, namespace) as client:
        run = client.get(name)
        secret = run.get("spec.output.credentialsSecret.name")
        if with_secret and secret:
            credentials = client.read_secret(str(secret))
    chosen = next((each for each in run.status.artifacts if each.name == artifact), None)
    if chosen is None:
        present = ", ".join(each.name for each in run.status.artifacts) or f"none: it is {run.phase or 'new'}"
        raise ArtifactUnreachable(f"{name} has no artifact {artifact!r}; it has {present}")
    target = folder or Path(f"{name}-{artifact}")
    console = make_message_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(artifact, total=chosen.size_bytes)
        manifest = download_artifact(
            chosen,
            target,
            endpoint_url=endpoint_url or run.get("spec.output.endpointUrl"),
            credentials=credentials,
            note=lambda _path, count: progress.advance(task, count),
        )
    make_console().print(f"{target}: {len(manifest.files)} files, each as published ({chosen.digest})", soft_wrap=True)
