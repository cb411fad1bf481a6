"""The code behind the book: every function that a chapter checks a claim with.

Import the module you need (``from companion.steady_state import stationary_density``);
importing :mod:`companion` itself loads nothing and has no side effect.
"""
