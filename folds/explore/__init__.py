"""Looking at the data before any training."""
