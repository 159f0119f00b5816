"""vexrun: build, load and test out-of-tree filesystem modules in real machines."""

from importlib.metadata import version

__version__ = version("vexrun")
