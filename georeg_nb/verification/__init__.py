"""Do two registries hold the same images? One shape of answer, three levels to find it on.

metadata compares two metadata databases inside the databases; api walks both registries over HTTP, indexes down to
their children; content reads every manifest, config and layer besides. Source: registry 4.5, 5, 6, 7, 8.
"""

from georeg_nb.verification.api import Sample, compare_registries
from georeg_nb.verification.metadata import compare_databases
from georeg_nb.verification.model import (
    Comparison,
    Difference,
    Level,
    accept_losses,
    compare_tags,
    not_compared,
    second_look,
)

__all__ = [
    "Comparison",
    "Difference",
    "Level",
    "Sample",
    "accept_losses",
    "compare_databases",
    "compare_registries",
    "compare_tags",
    "not_compared",
    "second_look",
]
