"""Looking at the data before any training.

Public: `exploration.explore`, `duplicates.check_photos`, `page.write_exploration`.
"""
