"""How a run is drawn: one look for the trainer's report and the operator's page. Text in, markup out; nothing is fetched."""
