"""Recipes: what is trained and how, as data, and what a task's logits mean. No torch.

Public: `reading.load_recipe`, `binding.run_recipe`, `schema.Recipe`, `tasks.Target`, `views.views_of`,
`geometry.Geometry`.
"""
