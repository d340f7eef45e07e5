"""The steps of the pipeline as Python calls, one module a step: what each command does, without a terminal.

They take folders and plain values and return frozen dataclasses; `import ensemble` offers them by name.
"""
