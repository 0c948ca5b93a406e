"""Pure builders: from a FineTuneJob to the manifests that should exist."""
