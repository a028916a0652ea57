//! Names of annotations and labels of both programs; the Go programs use the same.

/// Addresses of a Service, separated by commas.
pub const LOAD_BALANCER_IPS: &str = "kube-vip.io/loadbalancerIPs";
/// The interface for the addresses of a Service.
pub const SERVICE_INTERFACE: &str = "kube-vip.io/serviceInterface";
/// Services with the same value may share an address, independently of the pool.
pub const SHARING_KEY: &str = "kube-vip.io/sharing-key";
/// Addresses that the cloud provider chose, which distinguishes them from a request.
pub const ALLOCATED: &str = "kube-vip.io/allocated-addresses";
/// The label of every Service that the cloud provider manages, and its value.
pub const IMPLEMENTATION: (&str, &str) = ("implementation", "kube-vip");
/// The label of older cloud providers that held the address.
pub const LEGACY_ADDRESS: &str = "ipam-address";
/// Delays the deletion of a Service until its address is released.
pub const CLEANUP_FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The label of the node that holds the control-plane VIP.
pub const HAS_IP: &str = "kube-vip.io/has-ip";
/// `"true"`: kube-vip leaves the Service alone.
pub const IGNORE: &str = "kube-vip.io/ignore";
/// The Lease that several Services are elected on together: `name` or `namespace/name`.
pub const LEASE_NAME: &str = "kube-vip.io/leaseName";
/// `"true"`: an election of its own for this Service, where that is on demand.
pub const FORCE_ELECTION: &str = "kube-vip.io/forcePerServiceElection";
/// `"true"`: announce the Service without ready endpoints.
pub const WITHOUT_ENDPOINTS: &str = "kube-vip.io/allow-reconcile-without-endpoints";
/// The 802.1Q interface for the addresses of a Service: `parent.tag`.
pub const SERVICE_VLAN: &str = "kube-vip.io/serviceVLAN";
/// The node that announces a Service.
pub const VIP_HOST: &str = "kube-vip.io/vipHost";
/// Prefix of the label for a Service that a node announces: `…/service.namespace`.
pub const SERVICE_PROVIDED: &str = "service-provided.kube-vip.io";
/// Communities of the routes to a Service, separated by commas.
pub const BGP_COMMUNITIES: &str = "kube-vip.io/bgp-communities";
/// Large communities of the routes to a Service, separated by commas.
pub const BGP_LARGE_COMMUNITIES: &str = "kube-vip.io/bgp-large-communities";
/// The local preference of the routes to a Service.
pub const BGP_LOCAL_PREF: &str = "kube-vip.io/bgp-local-pref";
/// The MED of the routes to a Service.
pub const BGP_MED: &str = "kube-vip.io/bgp-med";
/// Additional copies of the local AS in the AS_PATH of the routes to a Service.
pub const BGP_PREPEND: &str = "kube-vip.io/bgp-as-path-prepend";
/// The host name sent to DHCP servers.
pub const HOSTNAME: &str = "kube-vip.io/loadbalancerHostname";
/// The hardware address by which DHCP servers identify the Service.
pub const HARDWARE_ADDRESS: &str = "kube-vip.io/hwaddr";
/// Preferred addresses, at most one of each family, separated by commas.
pub const REQUESTED_IP: &str = "kube-vip.io/requestedIP";
/// `"false"`: DHCP messages without the BROADCAST flag.
pub const DHCP_BROADCAST: &str = "kube-vip.io/dhcp-broadcast";
/// A true value: the address for a DNS name comes from a DHCP server, which registers the name in the DNS.
pub const DDNS: &str = "kube-vip.io/ddns";
/// A macvlan interface for addresses from DHCP servers; several Services may share one.
pub const MACVLAN_NAME: &str = "kube-vip.io/macvlanName";
/// Reverse path filtering on that interface: 0, 1 or 2.
pub const RP_FILTER: &str = "kube-vip.io/rp_filter";
/// The leases of a Service, for the node that continues them.
pub const DHCP_LEASE: &str = "kube-vip.io/dhcp-lease";
/// `"true"`: the network's gateway maps ports to the Service, by UPnP.
pub const FORWARD_UPNP: &str = "kube-vip.io/forwardUPNP";
/// Lifetime of a port mapping that is not renewed; `0` is permanent.
pub const UPNP_LEASE_DURATION: &str = "kube-vip.io/upnp-lease-duration";
/// Ports of the gateway that differ from the Service's.
pub const UPNP_EXTERNAL_PORT: &str = "kube-vip.io/upnp-external-port";
/// The external address of the gateway.
pub const UPNP_EXTERNAL_IP: &str = "kube-vip.io/upnp-external-ip";
/// The cloud provider permits port mappings for the Service.
pub const UPNP_DELEGATED: &str = "kube-vip.io/upnp-delegated";
/// The requested mDNS name.
pub const MDNS: &str = "kube-vip.io/mdns";
/// The published mDNS name.
pub const MDNS_NAME: &str = "kube-vip.io/mdns-name";
/// Annotations for features that this version lacks, and the feature.
pub const NOT_YET: [(&str, &str); 1] = [("kube-vip.io/egress", "egress through the Service's address")];

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

/// Every annotation of a Service that one of the programs reads or writes.
pub const SERVICE_ANNOTATIONS: &[Entry] = &[
    entry(
        LOAD_BALANCER_IPS,
        "user, provider; read by both",
        "Addresses, separated by commas; kube-vip also takes DNS names. What a user writes is a request, what the provider writes its answer.",
    ),
    entry(
        ALLOCATED,
        "provider",
        "Addresses that the provider chose itself, which distinguishes them from a request.",
    ),
    entry(
        SHARING_KEY,
        "user; read by the provider",
        "Services with the same value may share an address if their ports differ.",
    ),
    entry(
        SERVICE_INTERFACE,
        "user, provider; read by kube-vip",
        "The interface for the addresses; `auto` is the first whose subnet contains the address.",
    ),
    entry(
        SERVICE_VLAN,
        "user; read by kube-vip",
        "`parent.tag`, such as `eth0.200`: an 802.1Q interface, created where it is missing, and removed when nothing uses it any more. Takes precedence over the interface above.",
    ),
    entry(IGNORE, "user; read by kube-vip", "`\"true\"`: kube-vip leaves the Service alone."),
    entry(
        LEASE_NAME,
        "user; read by kube-vip",
        "`name` or `namespace/name`: the Lease that Services are elected on together, with `externalTrafficPolicy: Cluster`.",
    ),
    entry(
        FORCE_ELECTION,
        "user; read by kube-vip",
        "`\"true\"`: an election of its own, with `per_service_election_on_demand`.",
    ),
    entry(
        WITHOUT_ENDPOINTS,
        "user; read by kube-vip",
        "`\"true\"`: announce the Service although it has no ready endpoints, with `externalTrafficPolicy: Cluster`.",
    ),
    entry(
        VIP_HOST,
        "kube-vip",
        "The node that announces the Service; where every node does, the one that wrote the status.",
    ),
    entry(
        BGP_COMMUNITIES,
        "user; read by kube-vip",
        "BGP mode: communities of its routes, separated by commas: `65000:100`, `no-export`, `no-advertise`.",
    ),
    entry(
        BGP_LARGE_COMMUNITIES,
        "user; read by kube-vip",
        "BGP mode: large communities, such as `65000:1:2`.",
    ),
    entry(
        BGP_LOCAL_PREF,
        "user; read by kube-vip",
        "BGP mode: the local preference, for peers in the same AS.",
    ),
    entry(BGP_MED, "user; read by kube-vip", "BGP mode: the MED (metric) of its routes."),
    entry(
        BGP_PREPEND,
        "user; read by kube-vip",
        "BGP mode: how many further times the own AS is prepended to the AS path, from 0 to 32.",
    ),
    entry(
        HOSTNAME,
        "user; read by both",
        "The host name sent to DHCP servers; as in the Go program it is the client identifier, too, so each Service needs its own.",
    ),
    entry(
        HARDWARE_ADDRESS,
        "user, DHCP client; read by both",
        "The hardware address by which DHCP servers identify the Service. Without one it is derived from the Service's UID, and written here.",
    ),
    entry(
        REQUESTED_IP,
        "user, DHCP client; read by both",
        "Preferred addresses, at most one of each family. The leased address is written here.",
    ),
    entry(
        DHCP_BROADCAST,
        "user; read by both",
        "`\"false\"`: DHCPv4 servers may reply to the hardware address. Otherwise the BROADCAST flag is set, since no interface receives frames for that hardware address.",
    ),
    entry(
        DDNS,
        "user; read by kube-vip",
        "`\"true\"`: the address for a DNS name among the addresses comes from a DHCP server, which gets the name and the request to register it in the DNS.",
    ),
    entry(
        MACVLAN_NAME,
        "user; read by kube-vip",
        "The name of a macvlan interface for DHCP and for the addresses, for networks that require the interface's own hardware address. Services may share one. Without it no interface is created.",
    ),
    entry(
        RP_FILTER,
        "user; read by kube-vip",
        "Reverse path filtering on that interface: `0` (the default), `1` or `2`.",
    ),
    entry(
        DHCP_LEASE,
        "DHCP client",
        "The leases of the Service: address, server, and times, so that the next node continues them.",
    ),
    entry(
        FORWARD_UPNP,
        "user; read by kube-vip",
        "`\"true\"`: the network's gateway maps its ports to those of the Service, with `enable_upnp` or the cloud provider's `--upnp`.",
    ),
    entry(
        UPNP_LEASE_DURATION,
        "user; read by kube-vip",
        "Lifetime of a port mapping that is not renewed, such as `30m`; `0` is permanent. The default is one hour.",
    ),
    entry(
        UPNP_EXTERNAL_PORT,
        "user; read by kube-vip",
        "Ports of the gateway that differ from the Service's: `80=8080,443=8443`, or one number where the Service has one port.",
    ),
    entry(UPNP_EXTERNAL_IP, "kube-vip", "The external address of the gateway while ports are mapped."),
    entry(
        UPNP_DELEGATED,
        "cloud provider",
        "`\"true\"` with its `--upnp`: the node that announces the Service maps the ports, although `enable_upnp` is not set there.",
    ),
    entry(
        MDNS,
        "user; read by kube-vip",
        "The Service's mDNS name, `web` or `web.local`; its named ports are published as services.",
    ),
    entry(
        MDNS_NAME,
        "kube-vip",
        "The published mDNS name; it differs from the requested one if another host has that.",
    ),
    entry(NOT_YET[0].0, "user", "Not available in this version; an Event reports it."),
];

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
