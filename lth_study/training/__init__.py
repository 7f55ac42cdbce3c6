"""Training one network under a mask; the worker calls `lth_study.training.train`."""


class Stopped(Exception):
    """The training was asked to stop. It saved a checkpoint, and the next call continues from there."""
