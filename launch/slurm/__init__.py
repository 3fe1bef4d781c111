"""Jobs for a Slurm cluster, and the two programs that they are made of."""
