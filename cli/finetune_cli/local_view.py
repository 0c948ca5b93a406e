"""The display of a run on this machine."""

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.text import Text

from finetune_api.trainer_config import TrainerConfig
from finetune_cli.local_run import LocalTrainer, build_local_body
from finetune_cli.output import make_console
from finetune_cli.run_view import build_run_view
from finetune_cli.words import printable
from finetune_sdk.run import Run

TICK_SECONDS = 0.5
SHOWN_LINES = 6


def follow_local_run(config: TrainerConfig, folder: Path, *, live: bool) -> int:
    """Train, show it, and return the trainer's exit code. The first Ctrl-C asks for a checkpoint, the second ends it at once."""
    trainer = LocalTrainer(config, folder, text_log=not live)
    console = make_console()
    display = Live(console=console, auto_refresh=False) if live else contextlib.nullcontext()
    asked = False
    with display as screen:
        while True:
            try:
                code = trainer.poll(TICK_SECONDS)
                if isinstance(screen, Live):
                    body = build_local_body(config, trainer.read_report(), trainer.summary, code)
                    view = build_run_view(Run(body), [], datetime.now(UTC), min(console.width, 110))
                    lines = [
                        Text(printable(line), style="dim", no_wrap=True, overflow="ellipsis") for line in list(trainer.log)[-SHOWN_LINES:]
                    ]
                    screen.update(Group(view, *lines), refresh=True)
                if code is not None:
                    break
            except KeyboardInterrupt:
                if asked:
                    trainer.kill()
                else:
                    asked = True
                    sys.stderr.write("writing a checkpoint; Ctrl-C again ends at once\n")
                    trainer.ask_to_stop()
    if not live and trainer.summary is not None:
        for artifact in trainer.summary.artifacts:
            console.print(f"{artifact.uri} {artifact.digest}", soft_wrap=True)
    return code
