"""Standard schemas, so that nothing is fetched for them; found by namespace."""
