"""georeg_lab: two rehearsal sites on one machine, held to the recorded behaviour of the real programs."""
