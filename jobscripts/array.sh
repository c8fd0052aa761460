#!/bin/bash
# coopmpi jobscript --launcher mpirun --tasks-per-node 16 --array 1,4,16,64%2 --array-key period.tau RUN.toml -o OUT.h5
#SBATCH --job-name=OUT
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=16
#SBATCH --time=01:00:00
#SBATCH --array=1,4,16,64%2
#SBATCH --signal=B:USR1@60
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append

# sbatch it from a shell that finds coopmpi. Submitted again, it goes on from the newest checkpoint.
# Each task of the array is a run with period.tau = its task id, and has a result file of its own.
out=OUT-$SLURM_ARRAY_TASK_ID.h5
# 60 s before the time limit Slurm sends USR1 to this script; passed on, it makes all ranks save and stop
trap 'kill -USR1 "$launcher"' USR1

# mpirun of the same Python environment as coopmpi; it starts as many ranks as the job has tasks
mpirun --bind-to none \
    coopmpi train RUN.toml --set "period.tau=$SLURM_ARRAY_TASK_ID" -o "$out" --continue &
launcher=$!
wait "$launcher"
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done  # a signal ends a wait, not the launcher

# how it ended is in the file: a lost node ends mpirun with exit status 0
[[ $(coopmpi inspect "$out" --status) == finished ]]
