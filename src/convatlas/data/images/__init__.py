"""Decode encoded images."""
