"""The page to look at: read-only, behind the cluster's own authentication, from what the store already holds."""
