"""Launchers behind one shape (find, run, stop): this machine, torchrun, Slurm; and Kubernetes."""
