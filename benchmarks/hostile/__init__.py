"""Hostile inputs: spoiled copies of everything that maskens reads, and what has to come of each.

`judge` says what is right, `mutations` how things are spoiled; `tables`, `recipes`, `run_files` and `photos` hold a
function each kind of input. `benchmarks/fuzz.py` and `tests/fuzz` call them.
"""
