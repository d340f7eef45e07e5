"""People, photos and splits: everything before a model is involved. Never imports torch."""
