"""An import that waits until somebody uses it."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands for a module; the first look at it imports the real one in its place."""

    hamming: Any = None  # torchmetrics looks for this name, and would put it there, where another package wants it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # whoever looks at all modules does not use this one
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def defer_scipy_signal() -> None:
    """Let `import scipy.signal`, which torchmetrics does for sounds, wait for the first use: it takes 0.6 s."""
    sys.modules.setdefault("scipy.signal", _Later("scipy.signal"))
