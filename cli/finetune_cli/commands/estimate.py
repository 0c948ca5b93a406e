"""``finetune estimate``."""

from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.commands.options import File
from finetune_cli.exit_codes import CliExit
from finetune_cli.output import DataFormat, make_console, make_message_console


def estimate(
    file: File,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The base model's config.json, or its folder.")] = None,
    teacher_config: Annotated[
        Path | None, typer.Option("--teacher-config", metavar="FILE", help="The same of the teacher, with the objective distill.")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option("--gpu-memory", help="Memory of the GPU, e.g. 24Gi; by default resources.minGpuMemory.")
    ] = None,
    output: Annotated[DataFormat, typer.Option("--output", "-o", help="Form of the result.")] = DataFormat.TEXT,
) -> None:
    """Say how much GPU memory a run needs, term by term, and what would make it fit. Needs the model's config.json alone.

    It is read from where the model lies (hf://, s3://, https://, file://), or given by --config; of well-known models of the hub it is
    known without.
    Exit codes: 0 it fits, or no limit is given; 1 the manifest is invalid or the model's shape is not known; 7 it doesn't fit.
    """
    from finetune_api.estimate import ShapeUnknown, compute_changes_that_fit, compute_estimate
    from finetune_api.quantity import parse_quantity
    from finetune_api.resource import parse_manifest
    from finetune_cli.estimate_view import build_estimate_report, print_estimate
    from finetune_cli.manifests import ManifestInvalid, read_manifest
    from finetune_cli.model_config import ConfigUnavailable
    from finetune_cli.model_shapes import read_shapes
    from finetune_cli.output import print_data

    messages = make_message_console()
    try:
        spec = parse_manifest(read_manifest(file)).spec
        shape, teacher = read_shapes(spec, config, teacher_config)
        computed = compute_estimate(shape, spec, teacher)
    except ManifestInvalid as error:
        error.show(messages)
        raise typer.Exit(CliExit.INVALID) from None
    except (ShapeUnknown, ConfigUnavailable) as error:
        messages.print(f"error: {error}")
        raise typer.Exit(CliExit.INVALID) from None
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--file") from None
    asked = gpu_memory or spec.resources.min_gpu_memory
    try:
        limit = int(parse_quantity(asked)) if asked else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--gpu-memory") from None
    changes = compute_changes_that_fit(shape, spec, limit, teacher) if limit is not None else []
    if output is DataFormat.TEXT:
        print_estimate(shape, computed, limit, changes, make_console())
    else:
        print_data(build_estimate_report(shape, computed, limit, changes), output)
    if limit is not None and computed.total_bytes > limit:
        raise typer.Exit(CliExit.DOES_NOT_FIT)
