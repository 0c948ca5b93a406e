"""Sweeps: FineTuneSweeps make FineTuneJobs, and know of nothing below them."""
