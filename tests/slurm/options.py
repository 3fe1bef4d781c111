"""Which options does sbatch have? Those of its --help in Slurm 22.05, and those left out there."""

UNTOLD = {"kill-on-invalid-dep", "open-mode"}
TOLD = """
account array bb bbf begin chdir cluster-constraint clusters comment constraint container
contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline
delay-boot dependency distribution error exclude exclusive export export-file
extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket
gpus-per-task gres gres-flags help hold ignore-pbs input job-name kill-on-invalid-dep
licenses mail-type mail-user mcs-label mem mem-per-cpu mem-per-gpu mincpus nice no-kill
no-requeue nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-node ntasks-per-socket
open-mode output overcommit oversubscribe parsable partition power priority profile
propagate qos quiet reboot requeue reservation signal sockets-per-node spread-job switches
thread-spec threads-per-core time time-min tmp uid usage use-min-nodes verbose version wait
wckey wrap
"""
SBATCH = UNTOLD | set(TOLD.split())
