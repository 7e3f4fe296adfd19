#!/usr/bin/env bash
# SLURM on this machine alone, for tests/sweep/test_slurm.py and to try docs/slurm.md: Debian or Ubuntu, as root.
#   tests/slurm_node.sh start     # installs SLURM if it is missing, and waits until the node takes jobs
#   tests/slurm_node.sh stop
set -euo pipefail

node=$(uname -n)
node=${node%%.*}

install_slurm() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
}

# No accounting, no control groups: what a container allows. A job gets as many of the CPUs as it asks for.
write_configuration() {
  install -d /etc/slurm /var/log/slurm /var/spool/slurmd /var/spool/slurmctld
  cat >/etc/slurm/slurm.conf <<CONFIGURATION
ClusterName=one_node
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
PartitionName=all Nodes=$node Default=YES DefMemPerCPU=1000
CONFIGURATION
}

start() {
  command -v slurmctld >/dev/null || install_slurm
  write_configuration
  install -d -o munge -g munge /run/munge
  runuser -u munge -- munged
  slurmctld
  slurmd -N "$node"
  for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
      sinfo
      return
    fi
    sleep 1
  done
  tail /var/log/slurm/*.log >&2
  exit 1
}

stop() {
  scancel --user="$(id -un)"
  scontrol shutdown
  runuser -u munge -- munged --stop
}

case ${1:-} in
  start | stop) "$1" ;;
  *)
    echo "usage: $0 start|stop" >&2
    exit 2
    ;;
esac
