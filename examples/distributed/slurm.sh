#!/bin/bash
# Plain workers as an array of jobs: `sbatch slurm.sh`, once the study is created.
#SBATCH --job-name=agenttts
#SBATCH --array=1-8
#SBATCH --cpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --requeue
# A minute before the time is up, the worker fails its trial and keeps its replies.
#SBATCH --signal=INT@60
srun python worker.py "$STORAGE" "$STORE" "$SERVER" --trials "${TRIALS:-10}"
