"""Hypothesis for the operator's tests: a busy machine is no failure, and the whole stays below some seconds."""

from hypothesis import HealthCheck, settings

settings.register_profile("operator", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("operator")
