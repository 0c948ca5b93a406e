"""Pure decisions: from an observation to the calls that bring the world closer to what was asked for."""
