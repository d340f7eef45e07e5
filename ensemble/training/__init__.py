"""From a recipe to finished jobs: checks, cost, losses, optimizer, epochs, resuming, the queue, tracking."""
