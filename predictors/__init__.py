"""Predictors: from a table of proxies to a ranking, and to the next recipe.

A name is loaded when it is first used, so that importing the package costs little.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
