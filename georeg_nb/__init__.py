"""georeg_nb: the helper package behind georeg's notebooks."""
