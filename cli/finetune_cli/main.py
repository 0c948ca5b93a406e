"""The command line's entry point. Exit codes: see :mod:`finetune_cli.exit_codes`."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from typer.core import TyperGroup
except ModuleNotFoundError as missing:  # the distribution without its extra
    sys.exit(f"finetune: {missing.name} is not installed; install the command line with: pip install 'finetune-operator[cli]'")

from finetune_cli.commands import artifacts, estimate, local, logs, manifest, runs, shells, submit
from finetune_cli.exit_codes import CliExit


class _Commands(TyperGroup):
    """Commands whose foreseen errors end in a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # Click's
        try:
            return super().invoke(ctx)
        except Exception as error:
            code = _classify(error)
            if code is None:
                raise
            message = str(error)
            sys.stderr.write(f"error: {message}\n")
            raise typer.Exit(code) from None


def _classify(error: Exception) -> CliExit | None:
    """Return the exit code of a foreseen error, None for another. Loads nothing: what raised it has loaded its class."""
    module = sys.modules.get("finetune_sdk.errors")
    if module is None or not isinstance(error, module.FinetuneError):
        return None
    if isinstance(error, module.ApiError):
        if error.status == 404:
            return CliExit.NOT_FOUND
        return CliExit.CLUSTER if error.status in (401, 403, 408, 429) or error.status >= 500 else CliExit.INVALID
    for kind, code in (
        (module.NoCluster, CliExit.CLUSTER),
        (module.RunFailed, CliExit.RUN_FAILED),
        (module.WaitTimedOut, CliExit.TIMED_OUT),
        (module.ArtifactDamaged, CliExit.DAMAGED),
        (module.ArtifactUnreachable, CliExit.NOT_FOUND),
    ):
        if isinstance(error, kind):
            return code
    return CliExit.INVALID


app = typer.Typer(
    cls=_Commands,
    help="Fine-tune language models on Kubernetes: works with FineTuneJobs. Also `kubectl finetune`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:  # noqa: FBT001  # Typer's form of a callback
    if asked:
        typer.echo(f"finetune {version('finetune-operator')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


_WRITE, _RUNS, _RESULTS, _LOCAL = "Before a run", "Runs in a cluster", "Results", "On this machine"
for _panel, _name, _command in (
    (_WRITE, "init", manifest.init),
    (_WRITE, "validate", manifest.validate),
    (_WRITE, "estimate", estimate.estimate),
    (_RUNS, "submit", submit.submit),
    (_RUNS, "list", runs.list_runs),
    (_RUNS, "status", runs.status),
    (_RUNS, "logs", logs.logs),
    (_RUNS, "wait", runs.wait),
    (_RUNS, "suspend", runs.suspend),
    (_RUNS, "resume", runs.resume),
    (_RUNS, "cancel", runs.cancel),
    (_RUNS, "retry", runs.retry),
    (_RUNS, "gpus", runs.gpus),
    (_RESULTS, "compare", runs.compare),
    (_LOCAL, "run", local.run),
    (_LOCAL, "generate", local.generate),
    (_LOCAL, "completion", shells.completion),
):
    app.command(_name, rich_help_panel=_panel)(_command)
app.add_typer(artifacts.artifacts_app, name="artifacts", rich_help_panel=_RESULTS)


def main() -> None:
    """Run the command line."""
    app(prog_name="kubectl finetune" if Path(sys.argv[0]).name.startswith("kubectl-finetune") else "finetune")
