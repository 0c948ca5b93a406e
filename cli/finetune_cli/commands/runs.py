"""Commands about runs in a cluster: list, status, wait, suspend, resume, cancel, retry, compare, gpus."""

from typing import Annotated

import typer

from finetune_cli.commands.options import (
    Context,
    Kubeconfig,
    Name,
    Names,
    Namespace,
    Output,
    Timeout,
    Yes,
    parse_duration,
    parse_settings,
)
from finetune_cli.output import DataFormat, OutputFormat, make_console, make_message_console


def list_runs(
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Runs of all namespaces.")] = False,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Label selector, as kubectl takes it.")] = "",
    output: Output = OutputFormat.TEXT,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List runs, oldest first."""
    from datetime import UTC, datetime

    from finetune_cli.output import print_bodies, print_table
    from finetune_cli.tables import build_run_table
    from finetune_sdk import FineTuneClient

    with FineTuneClient(kubeconfig, context, namespace) as client:
        runs = client.list_runs(all_namespaces=all_namespaces, selector=selector)
        where = client.namespace
    if output is not OutputFormat.TEXT:
        print_bodies([run.body for run in runs], output, as_list=True)
    elif not runs:
        make_message_console().print("no runs in any namespace" if all_namespaces else f"no runs in namespace {where}")
    else:
        print_table(build_run_table(runs, datetime.now(UTC), namespaces=all_namespaces), make_console())


def status(
    name: Name,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show what changes, until the run has ended.")] = False,
    settings: Annotated[
        bool, typer.Option("--settings", help="Show the specification with every default in it, as YAML (or JSON, with --output).")
    ] = False,
    namespace: Namespace = None,
    output: Output = OutputFormat.TEXT,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show where a run stands: phase, progress, loss curve, memory, artifacts, Events.

    Exit codes: 0 shown; with --watch, 4 where the run fails.
    """
    from finetune_cli.output import DataFormat, print_bodies, print_data

    if watch and settings:
        raise typer.BadParameter("shows what never changes; leave out --watch", param_hint="--settings")
    if watch and output is OutputFormat.TEXT:
        from finetune_cli.live import follow_run

        raise typer.Exit(follow_run(name, kubeconfig, context, namespace))
    from datetime import UTC, datetime

    from finetune_cli.run_view import build_run_view
    from finetune_sdk import FineTuneClient

    with FineTuneClient(kubeconfig, context, namespace) as client:
        run = client.get(name)
        if settings:
            print_data(run.settings, DataFormat.JSON if output is OutputFormat.JSON else DataFormat.YAML)
            return
        if output is not OutputFormat.TEXT:
            print_bodies([run.body], output, as_list=False)
            return
        console = make_console()
        console.print(build_run_view(run, client.events(run), datetime.now(UTC), min(console.width, 110)))


def wait(
    name: Name,
    until: Annotated[
        str, typer.Option("--for", help="Phase to wait for: ended (Succeeded or Failed), succeeded, running, suspended, starting…")
    ] = "ended",
    timeout: Timeout = None,
    namespace: Namespace = None,
    output: Output = OutputFormat.NAME,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait until a run has ended, or is in a phase.

    Exit codes: 0 it is so (and, of a run that has ended, it succeeded), 3 no such run, 4 the run failed, 5 not in time.
    """
    from finetune_api.status import Phase
    from finetune_cli.output import print_bodies
    from finetune_sdk import FineTuneClient, Run, RunFailed

    seconds = parse_duration(timeout)
    phases = {phase.lower(): phase for phase in Phase}
    if until.lower() not in {"ended", *phases}:
        raise typer.BadParameter(f"{until!r} is no phase; write ended, {', '.join(phases)}", param_hint="--for")
    wanted = phases.get(until.lower())

    def holds(run: Run) -> bool:
        # A phase that a quick run has left already was reached all the same.
        passed = wanted in (Phase.STARTING, Phase.RUNNING) and run.succeeded
        return run.finished if wanted is None else run.phase is wanted or passed

    with FineTuneClient(kubeconfig, context, namespace) as client:
        run = client.wait(name, holds, timeout_seconds=seconds)
    if output is OutputFormat.TEXT:
        make_console().print(f"{run.name} is {run.phase}")
    else:
        print_bodies([run.body], output, as_list=False)
    if wanted is None and not run.succeeded:
        raise RunFailed(name, run.reason, run.message)


def suspend(
    names: Names,
    wait_for_it: Annotated[bool, typer.Option("--wait", help="Wait until the checkpoint is written and no pod is left.")] = False,
    timeout: Timeout = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Stop runs after a checkpoint and give their GPUs back.

    With --wait, exit codes as of `finetune wait`.
    """
    from finetune_api.status import Phase
    from finetune_sdk import FineTuneClient

    seconds = parse_duration(timeout)
    with FineTuneClient(kubeconfig, context, namespace) as client:
        for name in names:
            run = client.suspend(name)
            make_console().print(
                f"{name} has ended already ({run.phase})" if run.finished else f"{name} is asked to write a checkpoint and stop"
            )
        for name in names if wait_for_it else []:
            run = client.wait(name, lambda run: run.finished or run.phase is Phase.SUSPENDED, timeout_seconds=seconds)
            make_console().print(f"{name} is {run.phase}")


def resume(names: Names, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Let suspended runs go on from their checkpoints."""
    from finetune_sdk import FineTuneClient

    with FineTuneClient(kubeconfig, context, namespace) as client:
        for name in names:
            run = client.resume(name)
            make_console().print(f"{name} has ended already ({run.phase})" if run.finished else f"{name} goes on")


def cancel(names: Names, yes: Yes = False, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None) -> None:
    """Stop runs for good and delete them. What they have published, and their checkpoints, stay in the store.

    To stop a run and keep it, use `finetune suspend`. Exit codes: 0 deleted, 1 not confirmed, 3 no such run.
    """
    import sys

    from finetune_sdk import FineTuneClient

    with FineTuneClient(kubeconfig, context, namespace) as client:
        runs = [client.get(name) for name in names]
        for run in runs:
            if not yes:
                if not sys.stdin.isatty():
                    raise typer.BadParameter("must be given where nobody can be asked", param_hint="--yes")
                step = f" at step {run.status.progress.step}" if run.status.progress else ""
                typer.confirm(f"Delete {run.namespace}/{run.name} ({run.phase or 'New'}{step})?", abort=True, err=True)
            client.cancel(run.name, uid=run.uid)
            make_console().print(f"{run.name} is deleted")
            output_uri = run.get("spec.output.uri")
            if not run.succeeded and run.status.start_time is not None and output_uri:
                make_message_console().print(f"checkpoints, if there are any, stay in {output_uri}/checkpoints/{run.uid}/", style="dim")


def retry(
    name: Name,
    new_name: Annotated[str | None, typer.Option("--name", help="Name of the new run; by default NAME-retry-1 and so on.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="What is to be different, e.g. training.learningRate=1e-4.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show the new run live.")] = False,
    namespace: Namespace = None,
    output: Output = OutputFormat.NAME,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run again what has ended: the same specification from the start, as a FineTuneJob with a new name.

    The one before stays as it is, and the annotation finetune.dev/retry-of names it. Exit codes: 0 created, 1 the run has not ended or the
    change is invalid, 3 no such run.
    """
    from finetune_cli.output import print_bodies
    from finetune_sdk import FineTuneClient

    changes = {path.removeprefix("spec."): value for path, value in parse_settings(settings or []).items()}
    with FineTuneClient(kubeconfig, context, namespace) as client:
        run = client.retry(name, new_name=new_name, changes=changes)
    if watch:
        from finetune_cli.live import follow_run

        raise typer.Exit(follow_run(run.name, kubeconfig, context, run.namespace))
    print_bodies([run.body], OutputFormat.NAME if output is OutputFormat.TEXT else output, as_list=False)


def compare(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Names of FineTuneJobs.")] = None,
    selector: Annotated[str, typer.Option("--selector", "-l", help="Runs by label instead, e.g. finetune.dev/sweep-name=rates.")] = "",
    output: Annotated[DataFormat, typer.Option("--output", "-o", help="Form of the result.")] = DataFormat.TEXT,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show runs side by side: how they ended, the settings that differ, and their loss curves in one plot."""
    from finetune_cli.curve import STYLES, render_plot
    from finetune_cli.output import print_data, print_table
    from finetune_cli.tables import build_comparison
    from finetune_sdk import FineTuneClient

    if bool(names) == bool(selector):
        raise typer.BadParameter("give names, or --selector", param_hint="NAME...")
    with FineTuneClient(kubeconfig, context, namespace) as client:
        runs = [client.get(name) for name in names] if names else client.list_runs(selector=selector)
    if len(runs) < 2:
        raise typer.BadParameter(f"there must be two runs or more; there are {len(runs)}", param_hint="NAME...")
    if output is not DataFormat.TEXT:
        print_data([{"name": run.name, "spec": run.settings, "status": run.body.get("status")} for run in runs], output)
        return
    console = make_console()
    print_table(build_comparison(runs), console)
    curves = [[(float(point.step), point.loss) for point in (run.status.metrics.history if run.status.metrics else [])] for run in runs]
    if any(len(curve) > 1 for curve in curves):
        from rich.text import Text

        legend = Text("\nloss  ", style="bold")
        for index, run in enumerate(runs):
            legend.append(f"⠶ {run.name}   ", style=STYLES[index % len(STYLES)])
        console.print(legend)
        console.print(render_plot(curves, min(console.width, 100), 14))


def gpus(
    output: Annotated[DataFormat, typer.Option("--output", "-o", help="Form of the result.")] = DataFormat.TEXT,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the cluster's GPUs: by node and product, who holds them, and which runs wait in which queue.

    Reading nodes, and pods of all namespaces, takes rights of its own; what you may not read is said and left out.
    """
    from dataclasses import asdict

    from finetune_cli.output import print_data, print_table
    from finetune_cli.tables import build_gpu_tables
    from finetune_sdk import FineTuneClient

    with FineTuneClient(kubeconfig, context, namespace) as client:
        report = client.gpus()
    messages = make_message_console()
    for missing in report.unseen:
        messages.print(f"not seen: {missing}", style="yellow")
    if output is not DataFormat.TEXT:
        nodes = [asdict(node) | {"free": node.free} for node in report.nodes]
        print_data({"nodes": nodes, "waiting": [asdict(each) for each in report.waiting], "unseen": report.unseen}, output)
        return
    held, waiting = build_gpu_tables(report)
    console = make_console()
    if report.nodes:
        print_table(held, console)
        total, free = sum(node.total for node in report.nodes), sum(node.free for node in report.nodes)
        console.print(f"\n{free} of {total} free")
    else:
        console.print("no node offers GPUs" if not report.unseen else "no GPUs seen")
    if report.waiting:
        console.print()
        print_table(waiting, console)
