"""Recipes: what is trained and how, as data, and what a task's logits mean. No torch.

Public: `reading.load_recipe`, `run_recipe.run_recipe`, `schema.Recipe`, `tasks.Target`, `tta_sets.TtaSet`,
`geometry.Geometry`.
"""
