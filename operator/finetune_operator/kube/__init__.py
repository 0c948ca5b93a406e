"""The edge to the API server: a small client, and the store of what the watches have seen."""
