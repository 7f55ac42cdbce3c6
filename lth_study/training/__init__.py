"""Training one network under a mask: its batches, its updates, and what makes them fast."""


class Stopped(Exception):
    """The training was asked to stop; its checkpoint is saved and the next call goes on from there."""
