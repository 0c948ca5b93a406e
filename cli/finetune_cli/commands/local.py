"""Commands that compute on this machine: run, generate."""

from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.commands.options import File
from finetune_cli.exit_codes import CliExit
from finetune_cli.output import make_console, make_message_console

_MISSING = "the training libraries are not installed here; pip install 'finetune-operator[trainer]'"


def run(
    file: File,
    work_dir: Annotated[Path, typer.Option("--work-dir", metavar="FOLDER", help="Downloads, prepared data, local checkpoints.")] = Path(
        ".finetune"
    ),
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the processor, whatever resources.gpus says.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="The trainer's log instead of the live display.")] = False,
) -> None:
    """Train on this machine, with the manifest that a cluster would take. file:// URIs work too.

    Credentials come from the environment (AWS_ACCESS_KEY_ID, HF_TOKEN…), not from Secrets. Ctrl-C writes a checkpoint; the same command
    goes on from it. Exit codes: the trainer's own (docs/reference/api.md), 1 invalid manifest, 9 the training libraries are not installed.
    """
    from finetune_api.resource import parse_manifest
    from finetune_cli.local_run import build_local_config, is_trainer_installed
    from finetune_cli.local_view import follow_local_run
    from finetune_cli.manifests import ManifestInvalid, read_manifest

    messages = make_message_console()
    try:
        job = parse_manifest(read_manifest(file))
    except ManifestInvalid as error:
        error.show(messages)
        raise typer.Exit(CliExit.INVALID) from None
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--file") from None
    if not is_trainer_installed():
        messages.print(f"error: {_MISSING}")
        raise typer.Exit(CliExit.NO_TRAINER)
    config = build_local_config(job, work_dir.absolute(), cpu=cpu)
    raise typer.Exit(follow_local_run(config, work_dir.absolute() / config.job.uid, live=not plain and make_console().is_terminal))


def generate(
    adapter: Annotated[Path, typer.Argument(metavar="FOLDER", help="The adapter: a folder as `finetune artifacts download` leaves it.")],
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="What to ask; several are fine. Without it, prompts are read line by line.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="URI or folder of the base model; by default the one it was trained on.")
    ] = None,
    quantization: Annotated[str, typer.Option("--quantization", help="Precision of the base: nf4, fp4, int8, fp8, none.")] = "nf4",
    cpu: Annotated[bool, typer.Option("--cpu", help="Compute on the processor.")] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=8192, help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=5, help="0: always the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1, help="Draw from so much of the probability.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of what is drawn.")] = 42,
    raw: Annotated[bool, typer.Option("--raw", help="Give the prompt to the model as it is, without its chat template.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each prompt.")] = False,
) -> None:
    """Ask base and adapter the same, and show their answers side by side. The base is loaded once, in 4 bits, over the GPUs there are.

    Exit codes: 0 answered, 1 model or adapter can't be loaded, 9 the training libraries are not installed.
    """
    from finetune_cli.generating import answer_prompts
    from finetune_cli.local_run import is_trainer_installed

    if not is_trainer_installed():
        make_message_console().print(f"error: {_MISSING}")
        raise typer.Exit(CliExit.NO_TRAINER)
    options: dict[str, object] = {
        "adapter": str(adapter.absolute()),
        "model": model,
        "quantization": quantization,
        "cpu": cpu,
        "maxTokens": max_tokens,
        "temperature": temperature,
        "topP": top_p,
        "seed": seed,
        "raw": raw,
    }
    raise typer.Exit(answer_prompts(options, prompts, as_json=as_json))
