"""The trainer: the program in the pod. It reads a configuration, trains an adapter and publishes it."""
