//! Names of annotations and labels that both programs read or write (the same as the Go programs').

/// Addresses of a Service, separated by commas.
pub const LOAD_BALANCER_IPS: &str = "kube-vip.io/loadbalancerIPs";
/// The link that a Service's addresses go on.
pub const SERVICE_INTERFACE: &str = "kube-vip.io/serviceInterface";
/// Services with the same value may share an address, whatever the pool says.
pub const SHARING_KEY: &str = "kube-vip.io/sharing-key";
/// What the cloud provider chose itself, so that it can tell a wish from its own answer.
pub const ALLOCATED: &str = "kube-vip.io/allocated-addresses";
/// The label of every Service that the cloud provider looks after, and its value.
pub const IMPLEMENTATION: (&str, &str) = ("implementation", "kube-vip");
/// The label of older cloud providers that held the address.
pub const LEGACY_ADDRESS: &str = "ipam-address";
/// Keeps a Service from vanishing before its address is given back.
pub const CLEANUP_FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The label of the node that holds the control-plane VIP.
pub const HAS_IP: &str = "kube-vip.io/has-ip";
