"""Kueue: its Workloads, where it is installed. It decides who runs; this package shows what it decided."""
