#!/bin/sh
# Starts a host: a cgroup in every hierarchy, then namespaces. Arguments: the name of the host, of its network namespace and of its
# cgroup, the folder of its files, and that of programs.
set -eu
name=$1 network=$2 group=$3 state=$4 programs=$5
files=$(cd "$(dirname "$0")" && pwd)

for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
    [ -e "$hierarchy/cgroup.procs" ] || continue
    mkdir -p "$hierarchy/$group"
    for setting in cpuset.cpus cpuset.mems; do
        [ -e "$hierarchy/cgroup.controllers" ] || [ ! -e "$hierarchy/$setting" ] ||
            cat "$hierarchy/$setting" > "$hierarchy/$group/$setting"
    done
    echo $$ > "$hierarchy/$group/cgroup.procs"
done
exec nsenter --net="/run/netns/$network" unshare --mount --pid --uts --ipc --cgroup --fork --kill-child \
    "$files/init.sh" "$name" "$state" "$programs" "$files"
