"""Commands that need no cluster: init, validate."""

from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.exit_codes import CliExit
from finetune_cli.output import DataFormat, make_console, make_message_console

_AGAIN = "Fields of the manifest"


def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="YAML or JSON; `-` is standard input.")] = None,
    named: Annotated[list[Path] | None, typer.Option("--file", "-f", metavar="FILE", help="The same, as other commands take it.")] = None,
    output: Annotated[DataFormat, typer.Option("--output", "-o", help="Form of the result.")] = DataFormat.TEXT,
) -> None:
    """Check manifests without a cluster, and name every fault with its file, line and field.

    YAML is read as kubectl reads it; several documents to a file are fine, and those of other kinds are left alone.

    Exit codes: 0 all are valid, 1 one is not, 2 wrong usage.
    """
    from finetune_cli.validate import Verdict, build_report, compute_verdicts, is_valid, print_text, read_source

    paths = [*(files or ()), *(named or ())]
    if not paths:
        raise typer.BadParameter("name at least one manifest", param_hint="FILE")
    verdicts: list[Verdict] = []
    for path in paths:
        source = "<stdin>" if str(path) == "-" else str(path)
        try:
            content = read_source(path)
        except OSError as error:
            raise typer.BadParameter(f"{source}: {error.strerror}", param_hint="FILE") from None
        verdicts += compute_verdicts(source, content)
    if output is DataFormat.TEXT:
        print_text(verdicts, make_console())
    else:
        from finetune_cli.output import print_data

        print_data(build_report(verdicts), output)
    if not is_valid(verdicts):
        raise typer.Exit(CliExit.INVALID)


def init(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the FineTuneJob; asked for where it is missing.")] = None,
    model: Annotated[str | None, typer.Option(help="URI of the base model: hf://organisation/name, s3://…", rich_help_panel=_AGAIN)] = None,
    dataset: Annotated[str | None, typer.Option(help="URI of the data: s3://…, hf://…, https://…, pvc://…", rich_help_panel=_AGAIN)] = None,
    output_uri: Annotated[
        str | None, typer.Option("--output-uri", help="Folder for the result: s3://… or pvc://…", rich_help_panel=_AGAIN)
    ] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace to write into it.", rich_help_panel=_AGAIN)] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of the run; 0 trains on the CPU.", rich_help_panel=_AGAIN)] = 1,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.", rich_help_panel=_AGAIN)] = None,
    queue: Annotated[str | None, typer.Option(help="Kueue LocalQueue.", rich_help_panel=_AGAIN)] = None,
    secret: Annotated[
        str | None, typer.Option(help="Secret with the credentials for s3:// and hf:// URIs.", rich_help_panel=_AGAIN)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any other field, e.g. training.maxLength=4096.", rich_help_panel=_AGAIN),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Where to write it; `-` is standard output. By default NAME.yaml.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a manifest: asks for what no option gives, where there is a terminal.

    The manifest is checked before it is written. Exit codes: 0 written, 1 a field is invalid, 2 wrong usage.
    """
    import sys

    from finetune_api.resource import SpecInvalid
    from finetune_cli.commands.options import parse_settings
    from finetune_cli.initial import build_initial_manifest, render_manifest

    asks = sys.stdin.isatty() and sys.stderr.isatty()

    def need(value: str | None, question: str, option: str, default: str | None = None) -> str:
        if value is not None:
            return value
        if not asks:
            raise typer.BadParameter("must be given where nobody can be asked", param_hint=option)
        return str(typer.prompt(question, default=default, err=True))

    name = need(name, "Name of the run", "NAME")
    model = need(model, "Base model", "--model", "hf://Qwen/Qwen2.5-0.5B-Instruct")
    dataset = need(dataset, "Dataset (s3://, hf://, https://, pvc://)", "--dataset")
    output_uri = need(output_uri, "Folder for the result (s3://, pvc://)", "--output-uri")
    console = make_message_console()
    try:
        manifest = build_initial_manifest(
            name,
            model=model,
            dataset=dataset,
            output=output_uri,
            namespace=namespace,
            gpus=gpus,
            epochs=epochs,
            queue=queue,
            secret=secret,
            settings=parse_settings(settings or []),
        )
    except SpecInvalid as error:
        for fault in error.faults:
            console.print(fault, style="red")
        raise typer.Exit(CliExit.INVALID) from None
    text = render_manifest(manifest)
    path = file or Path(f"{name}.yaml")
    if str(path) == "-":
        sys.stdout.write(text)
        return
    try:
        with path.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise typer.BadParameter(f"{path} is there already; --force replaces it", param_hint="--file") from None
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--file") from None
    console.print(f"{path} is written. Next: finetune estimate -f {path}; finetune submit -f {path} --watch")
