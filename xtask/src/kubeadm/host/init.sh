#!/bin/sh
# The first process of a host, in namespaces of its own: its file system, then its services.
set -eu
name=$1 state=$2 programs=$3 files=$4
hostname "$name"

mount --make-rprivate /
mkdir -p "$state/root"
mount -t tmpfs -o mode=755 root "$state/root"
cd "$state/root"
mkdir -p usr etc var/lib var/log opt/lab opt/files proc sys dev run tmp root old mnt
chmod 1777 tmp
for folder in bin sbin lib lib64; do ln -s usr/$folder $folder; done
ln -s /run var/run

# What is written below these survives a reboot.
for folder in usr etc; do
    mkdir -p "$state/$folder" "$state/$folder.work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$state/$folder,workdir=$state/$folder.work" overlay $folder
done
for folder in var/lib/kubelet var/lib/containerd var/lib/etcd var/log; do
    mkdir -p "$state/$folder" $folder
    mount --bind "$state/$folder" $folder
done
mount --bind "$programs" opt/lab
mount --bind "$files" opt/files

mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs shm dev/shm
# The kubelet sets these, which belong to the whole machine.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    copy=run/$(echo "${setting%=*}" | tr / .)
    echo "${setting#*=}" > "$copy"
    mount --bind "$copy" "proc/sys/${setting%=*}"
done

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup sys/fs/cgroup
    # A cgroup with processes cannot have controllers for those below it.
    mkdir sys/fs/cgroup/init
    for process in $(cat sys/fs/cgroup/cgroup.procs); do echo "$process" > sys/fs/cgroup/init/cgroup.procs; done
    sed 's/[^ ]*/+&/g' sys/fs/cgroup/cgroup.controllers > sys/fs/cgroup/cgroup.subtree_control
else
    mount -t tmpfs cgroup sys/fs/cgroup
    for controller in cpu cpuacct cpuset memory devices freezer blkio pids; do
        mkdir sys/fs/cgroup/$controller
        mount -t cgroup -o $controller cgroup sys/fs/cgroup/$controller
    done
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi

pivot_root . old
umount -l /old
PATH=/opt/files/bin:/opt/lab:/usr/sbin:/usr/bin exec /opt/files/services.sh
