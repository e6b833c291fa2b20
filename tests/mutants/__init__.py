"""Slips that users make in route files, made by machine, and whether `esb check` finds them."""
