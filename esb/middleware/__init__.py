"""What every message of a route passes: one concern a file, put in order in `esb.route`."""
