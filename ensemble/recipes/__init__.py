"""Recipes: what is trained and how, as data, and what a task's logits mean.

Tasks, schema, reading TOML, the recipe of a run, views and photo geometry. No torch.
"""
