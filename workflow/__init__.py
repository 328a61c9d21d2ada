"""The steps, which read from a registry, call the other packages, and write back.

A name is loaded when it is first used, so that importing the package costs little.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
