"""A data folder: labels, people and photos, label fixes, decoding."""
