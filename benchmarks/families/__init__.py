"""Every family of models, as tiny random instances: trained, published, loaded again and merged. See :mod:`benchmarks.families.proof`."""
