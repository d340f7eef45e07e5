"""Jobs, one task and one fold each, and what they leave in the run folder. No torch.

Public: `plan.plan`, `completion.is_done`, `spec.JobSpec`, `status.read_status`, `oof.pool`, `card.read_card`,
`history.read_curves`, `hardware.Hardware`.
"""
