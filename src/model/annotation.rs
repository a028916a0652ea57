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
/// `"true"`: kube-vip leaves the Service alone.
pub const IGNORE: &str = "kube-vip.io/ignore";
/// The Lease that several Services are elected on together: `name` or `namespace/name`.
pub const LEASE_NAME: &str = "kube-vip.io/leaseName";
/// `"true"`: an election of its own for this Service, where that is on demand.
pub const FORCE_ELECTION: &str = "kube-vip.io/forcePerServiceElection";
/// `"true"`: announce the Service even if nothing stands behind it.
pub const WITHOUT_ENDPOINTS: &str = "kube-vip.io/allow-reconcile-without-endpoints";
/// The 802.1Q link that a Service's addresses go on: `parent.tag`.
pub const SERVICE_VLAN: &str = "kube-vip.io/serviceVLAN";
/// The node that announces a Service.
pub const VIP_HOST: &str = "kube-vip.io/vipHost";
/// What a node holds for a Service: this, a slash, `service.namespace`.
pub const SERVICE_PROVIDED: &str = "service-provided.kube-vip.io";
/// Annotations that ask for something this version does not do, and what that is.
pub const NOT_YET: [(&str, &str); 4] = [
    ("kube-vip.io/forwardUPNP", "opening ports on a router by UPnP"),
    ("kube-vip.io/egress", "egress through the Service's address"),
    ("kube-vip.io/ddns", "DNS names by DHCP"),
    ("kube-vip.io/loadbalancerHostname", "a hostname for DHCP"),
];
