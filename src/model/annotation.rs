//! Names of annotations and labels of both programs; the Go programs use the same.

/// The label of every Service that the cloud provider manages, and its value.
pub const IMPLEMENTATION: (&str, &str) = ("implementation", "kube-vip");
/// The label of older cloud providers that held the address.
pub const LEGACY_ADDRESS: &str = "ipam-address";
/// Delays the deletion of a Service until its address is released.
pub const CLEANUP_FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The label of the node that holds the control-plane VIP.
pub const HAS_IP: &str = "kube-vip.io/has-ip";
/// On the control plane's Lease: its VIPs, separated by commas.
pub const VIPS: &str = "kube-vip.io/vips";
/// On each Lease of Services: how its holder elects Services. See `election/scheme`.
pub const ELECTION_SCHEME: &str = "kube-vip.io/election-scheme";
/// Prefix of the label for a Service that a node announces: `…/service.namespace`.
pub const SERVICE_PROVIDED: &str = "service-provided.kube-vip.io";
/// Annotations for features that this version lacks, and the feature.
pub const NOT_YET: [(&str, &str); 1] = [(EGRESS, "egress through the Service's address")];

/// An annotation or label as docs/services-reference.md shows it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    /// Its readers and writers.
    pub used: &'static str,
    pub meaning: &'static str,
}

const fn entry(name: &'static str, used: &'static str, meaning: &'static str) -> Entry {
    Entry { name, used, meaning }
}

/// Defines the annotations of Services, in the order of docs/services-reference.md.
macro_rules! annotations {
    ($($name:ident = $text:literal, $used:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: &str = $text;)*

        /// Every annotation of a Service that one of the programs reads or writes.
        pub const SERVICE_ANNOTATIONS: &[Entry] = &[$(entry($name, $used, $meaning)),*];
    };
}

annotations! {
    LOAD_BALANCER_IPS = "kube-vip.io/loadbalancerIPs", "user, provider; read by both",
        "Addresses, separated by commas; kube-vip also takes DNS names. What a user writes is a request, what the provider writes its answer.";
    ALLOCATED = "kube-vip.io/allocated-addresses", "provider",
        "Addresses that the provider chose itself, which distinguishes them from a request.";
    SHARING_KEY = "kube-vip.io/sharing-key", "user; read by both",
        "Services with the same value may share an address if their ports differ.";
    SERVICE_INTERFACE = "kube-vip.io/serviceInterface", "user, provider; read by kube-vip",
        "The interface for the addresses; `auto` is the first whose subnet contains the address.";
    SERVICE_VLAN = "kube-vip.io/serviceVLAN", "user; read by kube-vip",
        "`parent.tag`, such as `eth0.200`: an 802.1Q interface, created where it is missing, and removed when nothing uses it any more. Takes precedence over the interface above.";
    IGNORE = "kube-vip.io/ignore", "user; read by kube-vip",
        "`\"true\"`: kube-vip leaves the Service alone.";
    LEASE_NAME = "kube-vip.io/leaseName", "user; read by kube-vip",
        "`name` or `namespace/name`: the Lease that Services are elected on together, with `externalTrafficPolicy: Cluster`.";
    FORCE_ELECTION = "kube-vip.io/forcePerServiceElection", "user; read by kube-vip",
        "`\"true\"`: an election of its own, with `per_service_election_on_demand`.";
    WITHOUT_ENDPOINTS = "kube-vip.io/allow-reconcile-without-endpoints", "user; read by kube-vip",
        "`\"true\"`: announce the Service although it has no ready endpoints, with `externalTrafficPolicy: Cluster`; `\"false\"`: not even with `svc_allow_without_endpoints`.";
    VIP_HOST = "kube-vip.io/vipHost", "kube-vip",
        "The node that announces the Service; where every node does, the one that wrote the status.";
    BGP_COMMUNITIES = "kube-vip.io/bgp-communities", "user; read by kube-vip",
        "BGP mode: communities of its routes, separated by commas: `65000:100`, `no-export`, `no-advertise`.";
    BGP_LARGE_COMMUNITIES = "kube-vip.io/bgp-large-communities", "user; read by kube-vip",
        "BGP mode: large communities, such as `65000:1:2`.";
    BGP_LOCAL_PREF = "kube-vip.io/bgp-local-pref", "user; read by kube-vip",
        "BGP mode: the local preference, for peers in the same AS.";
    BGP_MED = "kube-vip.io/bgp-med", "user; read by kube-vip",
        "BGP mode: the MED (metric) of its routes.";
    BGP_PREPEND = "kube-vip.io/bgp-as-path-prepend", "user; read by kube-vip",
        "BGP mode: how many further times the own AS is prepended to the AS path, from 0 to 32.";
    HOSTNAME = "kube-vip.io/loadbalancerHostname", "user; read by both",
        "The host name sent to DHCP servers; as in the Go program it is the client identifier, too, so each Service needs its own.";
    HARDWARE_ADDRESS = "kube-vip.io/hwaddr", "user, DHCP client; read by both",
        "The hardware address by which DHCP servers identify the Service. Without one it is derived from the Service's UID, and written here.";
    REQUESTED_IP = "kube-vip.io/requestedIP", "user, DHCP client; read by both",
        "Preferred addresses, at most one of each family. The leased address is written here.";
    DHCP_BROADCAST = "kube-vip.io/dhcp-broadcast", "user; read by both",
        "`\"false\"`: DHCPv4 servers may reply to the hardware address. Otherwise the BROADCAST flag is set, since no interface receives frames for that hardware address.";
    DDNS = "kube-vip.io/ddns", "user; read by kube-vip",
        "`\"true\"`: the address for a DNS name among the addresses comes from a DHCP server, which gets the name and the request to register it in the DNS.";
    MACVLAN_NAME = "kube-vip.io/macvlanName", "user; read by kube-vip",
        "The name of a macvlan interface for DHCP and for the addresses, for networks that require the interface's own hardware address. Services may share one. Without it no interface is created.";
    RP_FILTER = "kube-vip.io/rp_filter", "user; read by kube-vip",
        "Reverse path filtering on that interface: `0` (the default), `1` or `2`.";
    DHCP_LEASE = "kube-vip.io/dhcp-lease", "DHCP client",
        "The leases of the Service: address, server, and times, so that the next node continues them.";
    FORWARD_UPNP = "kube-vip.io/forwardUPNP", "user; read by kube-vip",
        "`\"true\"`: the network's gateway maps its ports to those of the Service, with `enable_upnp` or the cloud provider's `--upnp`.";
    UPNP_LEASE_DURATION = "kube-vip.io/upnp-lease-duration", "user; read by kube-vip",
        "Lifetime of a port mapping that is not renewed, such as `30m`; `0` is permanent. The default is one hour.";
    UPNP_EXTERNAL_PORT = "kube-vip.io/upnp-external-port", "user; read by kube-vip",
        "Ports of the gateway that differ from the Service's: `80=8080,443=8443`, or one number where the Service has one port.";
    UPNP_EXTERNAL_IP = "kube-vip.io/upnp-external-ip", "kube-vip",
        "The external address of the gateway while ports are mapped.";
    MDNS = "kube-vip.io/mdns", "user; read by kube-vip",
        "The Service's mDNS name, `web` or `web.local`; its named ports are published as services.";
    MDNS_NAME = "kube-vip.io/mdns-name", "kube-vip",
        "The published mDNS name; it differs from the requested one if another host has that.";
    EGRESS = "kube-vip.io/egress", "user",
        "Not available in this version; an Event reports it.";
}

/// Labels of all objects.
pub const LABELS: &[Entry] = &[
    entry(IMPLEMENTATION.0, "provider, on Services", "`kube-vip`: the provider manages this Service."),
    entry(
        HAS_IP,
        "kube-vip, on Nodes",
        "Control-plane VIPs that the node holds, with `enable_node_labeling`.",
    ),
    entry(
        "service-provided.kube-vip.io/<service>.<namespace>",
        "kube-vip, on Nodes",
        "The addresses of a Service that the node announces, with `enable_node_labeling`. IPv6 addresses are 32 hexadecimal digits.",
    ),
];
