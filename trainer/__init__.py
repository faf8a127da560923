"""Likeness: photos of a person to a LoRA adapter with an honest score."""

__version__ = "0.1.0"
