"""The operator: it watches FineTuneJobs, makes their Jobs and keeps their status true."""
