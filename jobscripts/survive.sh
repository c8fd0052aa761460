#!/bin/bash
# coopmpi jobscript --launcher mpirun --nodes 2 --tasks-per-node 16 --requeue --survive RUN.toml -o OUT.h5
#SBATCH --job-name=OUT
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=16
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue

# sbatch it from a shell that finds coopmpi. Submitted again, it goes on from the newest checkpoint.
out=OUT.h5
asked=
# 60 s before the time limit Slurm sends USR1 to this script; passed on, it makes all ranks save and stop
trap 'asked=yes; kill -USR1 "$launcher"' USR1

# ulfm: ranks go on when another one dies. A lost node still ends mpirun: the checkpoint is for that.
# mpirun of the same Python environment as coopmpi; it starts as many ranks as the job has tasks
mpirun --with-ft ulfm --mca pml ob1 --bind-to none \
    coopmpi train RUN.toml -o "$out" --continue --survive &
launcher=$!
wait "$launcher"
while kill -0 "$launcher" 2>/dev/null; do wait "$launcher"; done  # a signal ends a wait, not the launcher

# how it ended is in the file: a lost node ends mpirun with exit status 0
case $(coopmpi inspect "$out" --status)$asked in
    finished*) exit 0 ;;
    failed*) exit 4 ;;
    # only after USR1: a cancelled job must not come back
    *yes) scontrol requeue "$SLURM_JOB_ID" ;;
    # cut off: if a node was lost, Slurm will notice, end this script, and put the job back by itself
    running) sleep 600 ;;
esac
exit 1
