"""Iterative magnitude pruning with rewinding, and how stable the subnetworks are that it finds.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that the command line need not
wait for torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
