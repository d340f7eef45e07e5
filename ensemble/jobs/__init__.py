"""Jobs, one task and one fold each, and what they leave in the run folder. No torch."""
