"""The program around a run: arguments, log, exit code and last word."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from finetune_api.exit_codes import OUTCOMES, ExitCode
from finetune_api.names import ENV_CONFIG
from finetune_api.summary import TrainerSummary
from finetune_trainer.configuration import read_config
from finetune_trainer.ending import ENV_TERMINATION_MESSAGE, build_failure, classify_exception, write_summary
from finetune_trainer.errors import TrainerError
from finetune_trainer.group import Group
from finetune_trainer.interruption import Interruption
from finetune_trainer.launch import needs_launch, run_processes
from finetune_trainer.logs import ENV_FORMAT, set_up_logging
from finetune_trainer.tracing import Tracing

if TYPE_CHECKING:
    from finetune_trainer.run import Run

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Nothing of the run is told to anyone but the operator
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # What of TRL's is used that it calls experimental is pinned by uv.lock and tested
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Tokenizers' own threads and forked processes don't go together
    "TOKENIZERS_PARALLELISM": "false",
    # Long runs with sequences of changing length: keeps the GPU's memory from falling to pieces
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}


def run_program(arguments: Sequence[str], interruption: Interruption) -> NoReturn:
    """Train as ``arguments`` say and end the process."""
    options = _parse(arguments)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    set_up_logging()
    run: Run | None = None
    group: Group | None = None
    tracing = Tracing()
    try:
        config = read_config(options.config, os.environ)
        set_up_logging(config.job, config.attempt)
        if config.group is not None and needs_launch(config, os.environ):
            code, summary = run_processes(config, config.group, interruption)
            _end(code, summary)
        make_run = _load()
        group = Group(config.group, os.environ, lambda words: _lose(run, words, tracing))
        if group.leads:
            tracing = Tracing.from_environ(config, os.environ)
        run = make_run(config, interruption, os.environ, group, tracing)
        started = run
        interruption.leave_by(lambda: _leave(started, group, tracing))
        summary = run.execute()
        code = ExitCode.COMPLETED
    except KeyboardInterrupt:  # unreachable once the signals are taken over; kept for a caller that has not
        code, summary = ExitCode.INTERRUPTED, build_failure(ExitCode.INTERRUPTED, "interrupted")
    except BaseException as error:  # whatever happens, the pod leaves a last word
        code, message = classify_exception(error)
        if group is not None:
            code = group.choose_code(code)
        if isinstance(error, TrainerError):
            logger.error("%s: %s", OUTCOMES[code].reason, message)  # noqa: TRY400  foreseen: a traceback would hide the words
        else:
            logger.exception("%s: %s", OUTCOMES[code].reason, message)
        summary = build_failure(code, message) if run is None else run.summarise_end(code, message)
    _end(code, summary, tracing)


def _load() -> "type[Run]":
    """Load the libraries: seconds that ``--help`` and a refused configuration need not wait, and only now do they read the environment."""
    from finetune_trainer.run import Run  # noqa: PLC0415

    return Run


def _lose(run: "Run | None", words: str, tracing: Tracing) -> None:
    """End at once: another process of the run has ended."""
    logger.warning("%s: %s", OUTCOMES[ExitCode.PEER_LOST].reason, words)
    failure = build_failure(ExitCode.PEER_LOST, words) if run is None else run.summarise_end(ExitCode.PEER_LOST, words)
    _end(ExitCode.PEER_LOST, failure, tracing)


def _leave(run: "Run", group: Group, tracing: Tracing) -> None:
    """End at once: the run was asked to stop when it had nothing to save."""
    code = group.choose_code(ExitCode.INTERRUPTED)
    _end(code, run.summarise_end(code, "asked to stop before the first step; there was nothing new to save"), tracing)


def _end(code: ExitCode, summary: TrainerSummary, tracing: Tracing | None = None) -> NoReturn:
    """Write the last word and end the process by ``code``.

    Without Python's own tidying up: it would wait for transfers that no longer matter, and libraries that crash while they are torn down
    would change the exit code.
    """
    write_summary(summary)
    logger.info("ends as %s (exit code %d)", summary.outcome, code)
    if tracing is not None:
        tracing.close(summary.outcome, summary.reason, int(code), step=summary.progress.step if summary.progress is not None else 0)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(int(code))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    codes = "\n".join(f"  {code.value:3}  {OUTCOMES[code].reason}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="finetune-trainer",
        description="Fine-tune a language model as a configuration says, and publish the adapter.",
        epilog=(
            f"environment:\n  {ENV_CONFIG}  the configuration as JSON, where --config is not given\n"
            f"  {ENV_TERMINATION_MESSAGE}  file for the summary, instead of the kubelet's\n"
            f"  {ENV_FORMAT}  json or text\n\nexit codes:\n{codes}"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the configuration (TrainerConfig), as JSON or YAML")
    return parser.parse_args(arguments)
