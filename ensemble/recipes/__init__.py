"""Recipes: what is trained and how, as data, and what a task's logits mean. No torch."""
