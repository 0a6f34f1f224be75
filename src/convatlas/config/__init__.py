"""Compose configurations, check them against constructors, and look up public names."""
