"""Exit codes of the command line: what a script can tell apart."""

from enum import IntEnum


class CliExit(IntEnum):
    """Codes that ``finetune`` exits with. ``finetune run`` exits with the trainer's own, which begin at 64."""

    OK = 0
    """All is well; of commands that wait: what was waited for is so."""
    INVALID = 1
    """A manifest is invalid, the server refuses it, or the command can't be carried out as asked."""
    USAGE = 2
    """The command was used wrongly."""
    NOT_FOUND = 3
    """There is no such run, artifact or file."""
    RUN_FAILED = 4
    """The run that was waited for has failed."""
    TIMED_OUT = 5
    """What was waited for did not come in time."""
    CLUSTER = 6
    """The API server can't be reached, or you lack a right there."""
    DOES_NOT_FIT = 7
    """By the estimate, the run does not fit into the memory given."""
    DAMAGED = 8
    """A file is not what was published: a digest doesn't match."""
    NO_TRAINER = 9
    """The training libraries are not installed here."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C. Runs in the cluster go on."""
