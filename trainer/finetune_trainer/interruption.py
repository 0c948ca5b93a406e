"""SIGTERM and SIGINT: the pod is asked to stop.

Imports nothing but the standard library, so that the handlers stand before anything else is loaded: the first process of a container
ignores a SIGTERM that it has no handler for.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether the run was asked to stop, and what becomes of the request.

    Until :meth:`defer` is called there is nothing to save, so the request is carried out on the spot, by ``leave``. From then on it is only
    noted, and the training loop acts on it. A second request changes nothing.
    """

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._leave: Callable[[], None] | None = None
        self._deferred = False
        self._agree: Callable[[bool], bool] | None = None
        self._agreed = False

    def install(self) -> None:
        """Take over SIGTERM and SIGINT. Call it from the main thread."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def leave_by(self, leave: Callable[[], None]) -> None:
        """Carry a request out by ``leave``, which does not return, from now on; and one that has come already at once."""
        self._leave = leave
        self._obey()

    def defer(self) -> None:
        """Only note requests from now on. One that has come already is still carried out."""
        self._obey()
        self._deferred = True

    @property
    def requested(self) -> bool:
        """Whether the run was asked to stop, and in a run of several processes whether all of them know."""
        return self._requested.is_set() if self._agree is None else self._agreed

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop, known to the others or not."""
        return self._requested.is_set()

    def agree_by(self, agree: Callable[[bool], bool]) -> None:
        """Take a request for one only once :meth:`poll` has found that some process has it, by ``agree``, which asks all of them."""
        self._agree = agree

    def poll(self) -> bool:
        """Return :attr:`requested`, having asked the other processes: all must do so at the same point."""
        if self._agree is not None and not self._agreed:
            self._agreed = self._agree(self._requested.is_set())
        return self.requested

    def request(self) -> None:
        """Ask the run to stop, as a signal does."""
        self._requested.set()
        self._obey()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self._requested.is_set():
            self.request()

    def _obey(self) -> None:
        if self._requested.is_set() and self._leave is not None and not self._deferred:
            self._leave()
