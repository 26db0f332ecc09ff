"""georeg_nb: the helper package behind georeg's notebooks.

from georeg_nb import open_run

run = open_run("migrate-legacy", sites="parameters/lab/sites.yml", approve=[])
run.check("guard")
run.apply("guard")
run.summary()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from georeg_nb.runbook.run import Run

__all__ = ["open_run"]


def open_run(scenario: str, **parameters: Any) -> Run:
    """Open a run of a scenario with the parameters of its notebook; all that a notebook imports.

    Raises ParametersError, with everything that is wrong at once, before anything is contacted.
    """
    from georeg_nb import scenarios
    from georeg_nb.runbook import opening

    return opening.open_run(scenarios.find(scenario), parameters)
