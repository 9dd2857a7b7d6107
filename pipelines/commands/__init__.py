"""What the commands of `moco` do. Each imports what it needs only as it runs, for `--help`."""
