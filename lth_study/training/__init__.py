"""Training one network under a mask; `lth_study.training.train` is the entry, which the worker calls."""


class Stopped(Exception):
    """The training was asked to stop. It saved a checkpoint, and the next call continues from there."""
