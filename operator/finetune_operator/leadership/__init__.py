"""One of several operators leads: it alone decides and writes. The others watch along, and take over when it is gone."""
