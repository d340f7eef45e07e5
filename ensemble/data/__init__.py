"""Photos on their way to a model: decoded-photo cache, batches, augmentation, mixing, drawn masks."""
