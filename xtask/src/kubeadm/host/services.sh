#!/bin/sh
# What systemd does elsewhere: runs containerd and the kubelet, and starts them again when they end.
hostname > /etc/hostname
repeat() {
    while :; do
        "$@"
        sleep 0.2
    done
}
kubelet_with_flags() {
    # Without the kubelet's configuration there is nothing to run yet: kubeadm writes it.
    if [ -e /run/kubelet.stopped ] || [ ! -e /var/lib/kubelet/config.yaml ]; then return; fi
    . /var/lib/kubelet/kubeadm-flags.env
    # kubeadm before 1.34 sets a flag that the kubelet of 1.36 does not have.
    flags=$(echo "$KUBELET_KUBEADM_ARGS" | sed 's/--pod-infra-container-image=[^ ]*//')
    # shellcheck disable=SC2086
    kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
        --config=/var/lib/kubelet/config.yaml $flags >> /var/log/kubelet.log 2>&1
}
repeat containerd --config /opt/files/containerd.toml >> /var/log/containerd.log 2>&1 &
repeat kubelet_with_flags &
# As the first process this shell also reaps the processes that containers leave behind.
while :; do
    wait
    sleep 1
done
