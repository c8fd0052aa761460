#!/bin/bash
# coopmpi jobscript --launcher mpirun --nodes 8 --tasks-per-node 4 --gpus 4 --time 12:00:00 RUN.toml -o OUT.h5
#SBATCH --job-name=OUT
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append

# sbatch it from a shell that finds coopmpi. Submitted again, it goes on from the newest checkpoint.
out=OUT.h5
# 60 s before the time limit Slurm sends USR1 to this script; passed on, it makes all ranks save and stop
trap 'kill -USR1 "$launcher"' USR1

# device = "auto" in the run description: each rank takes the GPU of its number on the node
# mpirun of the same Python environment as coopmpi; it starts as many ranks as the job has tasks
mpirun --bind-to none \
    coopmpi train RUN.toml -o "$out" --continue &
launcher=$!
wait "$launcher"
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done  # a signal ends a wait, not the launcher

# how it ended is in the file: a lost node ends mpirun with exit status 0
[[ $(coopmpi inspect "$out" --status) == finished ]]
