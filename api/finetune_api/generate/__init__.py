"""Generates what is written down about the API elsewhere: the CRD, the editors' JSON Schema, the reference.

The models are the one source; nothing here is a rule of its own but that a specification can't change.
"""
