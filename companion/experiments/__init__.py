"""The experiments whose records the chapters draw from."""
