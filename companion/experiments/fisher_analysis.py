"""Tables and plots of the ``fisher`` experiments, made of their records."""

from collections.abc import Sequence

from companion.experiments.experiment import Report


def report(records: Sequence[dict]) -> Report:
    return Report(())
