"""ghostnas: for one device and one budget, the GhostNet that learns best, trained and exported."""

__version__ = "0.1.0"
