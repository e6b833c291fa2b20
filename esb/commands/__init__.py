"""What `esb` can be told. `esb.cli` loads each file when one of its commands is used."""
