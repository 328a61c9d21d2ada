"""A small real world: puzzles, SFT recipes and GRPO that run on a CPU in minutes.

A name is loaded when it is first used, so that importing the package costs little.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
