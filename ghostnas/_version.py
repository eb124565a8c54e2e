"""The version, for all modules and for the build."""

__version__ = "0.1.0"
