"""The assessment: which scenario the sites are a starting point of. It reads only."""

from georeg_nb.procedures.assess.checks import scenario_that_fits, starting_point_fits
from georeg_nb.runbook import Procedure

ASSESS = Procedure("assess", title="Which scenario fits", pair_checks=[scenario_that_fits])

__all__ = ["ASSESS", "scenario_that_fits", "starting_point_fits"]
