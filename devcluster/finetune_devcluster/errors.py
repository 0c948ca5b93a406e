"""The one error that the development cluster raises on purpose: its message says what to do next."""


class DevClusterError(RuntimeError):
    """The development cluster cannot do what was asked; the message says why and how to mend it."""
