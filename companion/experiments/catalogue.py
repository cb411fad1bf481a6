"""Every experiment by name."""

import difflib
from importlib import import_module

from companion.experiments.experiment import Experiment

MODULES = ("fisher", "shift", "solvable", "prior", "msharp", "who_predicts")


def experiments() -> dict[str, Experiment]:
    """All of them, by name, in the order of the book."""
    modules = (import_module(f"companion.experiments.{name}") for name in MODULES)
    return {experiment.name: experiment for module in modules for experiment in module.EXPERIMENTS}


def chosen(names: list[str]) -> list[Experiment]:
    """The experiments of these names; a name that several begin with, as a paper's, stands for all of those."""
    there, result = experiments(), {}
    for name in names:
        found = [name] if name in there else [full for full in there if full.startswith(f"{name}-")]
        if not found:
            raise ValueError(unknown("experiment", name, [*there, *{full.partition("-")[0] for full in there}]))
        result |= {full: there[full] for full in found}
    return list(result.values()) if names else list(there.values())


def unknown(what: str, name: str, allowed: list[str]) -> str:
    """The sentence for a name that is not there, with the nearest one that is."""
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{what} must be one of {', '.join(dict.fromkeys(allowed))}, got {name!r}{hint}"
