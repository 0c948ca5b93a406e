"""A port is given to one server only, also while nothing listens there yet."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_devcluster.ports import find_free_ports

COUNT = 40
SEED = 7
"""All draw the same numbers in the same order."""
SCRIPT = f"""
import random, sys
from finetune_devcluster.ports import find_free_ports
random.seed({SEED})
print(*find_free_ports({COUNT}), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process() -> Iterator[list[int]]:
    """Yield the ports that a process is given, which lives until the end of the block."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield [int(port) for port in process.stdout.readline().split()]
        process.communicate(timeout=20)


def test_no_two_processes_are_given_the_same_one() -> None:
    with another_process() as first, another_process() as second:
        random.seed(SEED)
        ours = find_free_ports(COUNT)
        assert [len(each) for each in (first, second)] == [COUNT, COUNT]
        assert len({*first, *second, *ours}) == 3 * COUNT


def test_nor_two_servers_of_one_process() -> None:
    random.seed(SEED)
    first = find_free_ports(COUNT)
    random.seed(SEED)
    assert not set(first) & set(find_free_ports(COUNT))


def test_the_ports_of_a_process_that_has_ended_are_free_again() -> None:
    with another_process() as first:
        pass
    with another_process() as second:
        assert set(first) & set(second)
