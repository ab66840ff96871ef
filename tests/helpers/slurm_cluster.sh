#!/usr/bin/env bash
# A real SLURM cluster of two nodes, n1 and n2, on this one machine, for tests:
#   tests/slurm_cluster.sh start FOLDER    then: export SLURM_CONF=FOLDER/slurm.conf
#   tests/slurm_cluster.sh node FOLDER n2  starts a node again that was killed
#   tests/slurm_cluster.sh stop FOLDER
# It needs root and Debian's or Ubuntu's packages slurm-wlm and munge, whose slurmd can stand for several nodes.
set -eu
action=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
host=$(hostname -s)
export SLURM_CONF=$folder/slurm.conf

write_configuration() {
  cat >"$SLURM_CONF" <<CONF
ClusterName=crosstask
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# A requeued job may start again at once, a lost node is noticed soon, and a job has time to save itself.
JobRequeue=1
ReturnToService=2
SlurmdTimeout=20
KillWait=90
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=27001 CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=27002 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
}

start_munge() {
  [ -e /etc/munge/munge.key ] || /usr/sbin/mungekey --create
  mkdir -p /run/munge && chown munge /run/munge
  munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c "/usr/sbin/munged --force"
}

wait_for_nodes() {
  for _ in $(seq 60); do
    [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = "$1" ] && return 0
    sleep 1
  done
  echo "the nodes did not come up:" && sinfo && tail -n 20 "$folder"/*.log
  return 1
}

ulimit -n 4096 # slurmd closes every descriptor it could have before each step
case $action in
  start)
    mkdir -p "$folder/state" "$folder/spool-n1" "$folder/spool-n2"
    write_configuration
    start_munge
    slurmctld -f "$SLURM_CONF"
    for node in n1 n2; do slurmd -f "$SLURM_CONF" -N $node; done
    wait_for_nodes 2
    ;;
  node) slurmd -f "$SLURM_CONF" -N "$3" ;;
  stop) for pid in "$folder"/*.pid; do kill "$(cat "$pid")" 2>/dev/null || true; done ;;
  *) echo "start, node or stop, got $action" && exit 2 ;;
esac
