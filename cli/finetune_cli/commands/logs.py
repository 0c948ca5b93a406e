"""``finetune logs``."""

from typing import Annotated

import typer

from finetune_cli.commands.options import Context, Kubeconfig, Name, Namespace
from finetune_cli.output import make_console


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended, through restarts too.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="So many last lines of each pod.")] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Pods before the last restart as well, where they are still there.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Lines as the trainer wrote them: JSON.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the log of a run's trainers, all ranks. A rank stands before each line where there are several pods.

    Logs go with the pods, `ttlSecondsAfterFinished` after the run's end. Exit codes: 0 shown, 3 no such run, 6 no right to read logs.
    """
    import sys

    from finetune_cli.log_lines import render_line
    from finetune_sdk import FineTuneClient

    console = make_console()
    console.soft_wrap = True
    shown = False
    with FineTuneClient(kubeconfig, context, namespace) as client:
        nodes = int((client.get(name).get("spec.resources.nodes")) or 1)
        for line in client.logs(name, follow=follow, tail=tail, previous=previous):
            shown = True
            if raw:
                sys.stdout.write(line.text + "\n")
                sys.stdout.flush()
            else:
                console.print(render_line(line, ranks=nodes > 1), soft_wrap=True)
    if not shown:
        sys.stderr.write("no log: no pod of the run has started, or its pods are gone\n")
