"""From a recipe to finished jobs: pre-flight check, estimate, losses, optimizer, epochs, resuming, tracking.

Public: `jobs.train`, `job.run_job`, `preflight.preflight`, `estimate.estimate_training`, `trainer.Trainer`,
`losses.task_loss`.
"""
