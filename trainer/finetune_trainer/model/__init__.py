"""The base model: loaded in the precision asked for, and given its adapter."""
