#!/bin/bash
# Runs slurm/train.sbatch in a real SLURM on this machine, with so little time that it has to requeue itself.
#
#   PYTHON=.venv/bin/python bash tests/slurm/run.sh
#
# Needs root and Debian's packages, which it installs. Takes about ten minutes. Not part of continuous integration.
# Jobs are tracked by proctrack/linuxproc, as cgroups are often refused in containers.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(readlink -m "$(dirname "${PYTHON:=.venv/bin/python}")")/$(basename "$PYTHON")
export PYTHON=$python
command -v slurmctld slurmd munged > /dev/null || { apt-get update && apt-get install -y slurm-wlm munge; }

folder=$(mktemp -d)
repository=$PWD
node=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf
cat > "$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$folder/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=2
PartitionName=test Nodes=ALL Default=YES
END

daemons=()
job=
stop() {
    if [ -n "$job" ]; then
        scancel "$job"
        while squeue --noheader | grep -q .; do sleep 1; done
    fi
    [ ${#daemons[@]} -eq 0 ] || kill "${daemons[@]}" || true
    wait
}
trap stop EXIT
mkdir "$folder/state" "$folder/spool" "$folder/run"
head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 400 "$folder/munge.key"
chmod 755 "$folder"
munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munge.pid" --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" &
daemons+=($!)
until [ -S "$folder/munge.socket" ]; do sleep 0.1; done
slurmctld -D 2> /dev/null &
daemons+=($!)
slurmd -D 2> /dev/null &
daemons+=($!)
until sinfo --noheader --format=%t 2> /dev/null | grep -q idle; do sleep 1; done

cd "$folder/run"
ln -s "$repository/cli.py" "$repository/keras_examples" .
job=$(sbatch --parsable --job-name=test --time=2 --signal=B:USR1@30 "$repository/slurm/train.sbatch" \
    mnist --arch cnn --data synthetic --epochs "${EPOCHS:-60}")
state=
until [[ $state =~ ^(COMPLETED|FAILED|CANCELLED|TIMEOUT) ]]; do
    sleep 5
    last=$state
    state=$(scontrol show job "$job" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p')
    [ "$state" = "$last" ] || echo "$(date +%T) $state"
done

cat "test-$job.out"
[ "$state" = COMPLETED ]
grep -q "^requeued as the time is up" "test-$job.out"
grep -q "^going on from weights/test.checkpoint.h5" "test-$job.out"
"$PYTHON" cli.py weights weights/test.weights.h5 > /dev/null
[ -z "$(find weights -name '*.checkpoint*')" ]
echo "passed: $folder"
