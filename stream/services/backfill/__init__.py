"""`isthmus backfill`: a new application beside the running one, from what the inputs and files hold, and the switch to it."""
