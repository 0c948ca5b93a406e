"""The commands, a module for each group. A module loads what its commands need only when one is called."""
