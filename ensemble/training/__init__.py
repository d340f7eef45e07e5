"""From a recipe to finished jobs.

Pre-flight check, estimate, losses, optimizer, epochs, resuming, tracking, many jobs.
"""
