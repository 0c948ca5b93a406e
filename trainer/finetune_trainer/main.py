"""The entry point of ``finetune-trainer``."""

import sys

from finetune_trainer.interruption import Interruption


def main() -> None:
    """Run the trainer and end the process by the table of exit codes. Signals and log are taken over before anything else is loaded."""
    interruption = Interruption()
    interruption.install()

    from finetune_trainer.logs import set_up_logging  # noqa: PLC0415  see above

    set_up_logging()  # libraries have something to say already when they are loaded
    from finetune_trainer.program import run_program  # noqa: PLC0415  see above

    run_program(sys.argv[1:], interruption)


if __name__ == "__main__":
    main()
