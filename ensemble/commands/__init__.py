"""The steps of the pipeline, a module each: a command and a Python call from one dataclass of options."""
