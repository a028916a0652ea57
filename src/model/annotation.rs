//! Names of annotations and labels that both programs read or write (the same as the Go programs').

/// Addresses of a Service, separated by commas.
pub const LOAD_BALANCER_IPS: &str = "kube-vip.io/loadbalancerIPs";
/// The interface that a Service's addresses go on.
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
/// The 802.1Q interface that a Service's addresses go on: `parent.tag`.
pub const SERVICE_VLAN: &str = "kube-vip.io/serviceVLAN";
/// The node that announces a Service.
pub const VIP_HOST: &str = "kube-vip.io/vipHost";
/// What a node holds for a Service: this, a slash, `service.namespace`.
pub const SERVICE_PROVIDED: &str = "service-provided.kube-vip.io";
/// Communities of the routes to a Service, separated by commas.
pub const BGP_COMMUNITIES: &str = "kube-vip.io/bgp-communities";
/// Large communities of the routes to a Service, separated by commas.
pub const BGP_LARGE_COMMUNITIES: &str = "kube-vip.io/bgp-large-communities";
/// The local preference of the routes to a Service.
pub const BGP_LOCAL_PREF: &str = "kube-vip.io/bgp-local-pref";
/// The MED of the routes to a Service.
pub const BGP_MED: &str = "kube-vip.io/bgp-med";
/// How often our AS stands in the path of the routes to a Service once more.
pub const BGP_PREPEND: &str = "kube-vip.io/bgp-as-path-prepend";
/// The host name that a DHCP server is told.
pub const HOSTNAME: &str = "kube-vip.io/loadbalancerHostname";
/// The hardware address that a DHCP server knows the Service by.
pub const HARDWARE_ADDRESS: &str = "kube-vip.io/hwaddr";
/// Addresses that are preferred, at most one of each family, separated by commas.
pub const REQUESTED_IP: &str = "kube-vip.io/requestedIP";
/// `"false"`: DHCP servers need not answer to everybody.
pub const DHCP_BROADCAST: &str = "kube-vip.io/dhcp-broadcast";
/// A true value: the address of a name is asked of a DHCP server, which puts the name into the DNS.
pub const DDNS: &str = "kube-vip.io/ddns";
/// An interface with a hardware address of its own for addresses that come from a DHCP server; several Services may share one.
pub const MACVLAN_NAME: &str = "kube-vip.io/macvlanName";
/// Reverse path filtering on that interface: 0, 1 or 2.
pub const RP_FILTER: &str = "kube-vip.io/rp_filter";
/// What is to be known of a Service's leases to go on with them.
pub const DHCP_LEASE: &str = "kube-vip.io/dhcp-lease";
/// `"true"`: ports of the network's gateway lead to the Service, by UPnP.
pub const FORWARD_UPNP: &str = "kube-vip.io/forwardUPNP";
/// For how long a gateway keeps an open port without hearing of us; `0` is for ever.
pub const UPNP_LEASE_DURATION: &str = "kube-vip.io/upnp-lease-duration";
/// Which port of the gateway leads to which of the Service's.
pub const UPNP_EXTERNAL_PORT: &str = "kube-vip.io/upnp-external-port";
/// The gateway's own address outside.
pub const UPNP_EXTERNAL_IP: &str = "kube-vip.io/upnp-external-ip";
/// The cloud provider lets the node that announces the Service open ports of the gateway.
pub const UPNP_DELEGATED: &str = "kube-vip.io/upnp-delegated";
/// The Service's name in the local network (mDNS).
pub const MDNS: &str = "kube-vip.io/mdns";
/// The name under which it is found there.
pub const MDNS_NAME: &str = "kube-vip.io/mdns-name";
/// Annotations that ask for something this version does not do, and what that is.
pub const NOT_YET: [(&str, &str); 1] = [("kube-vip.io/egress", "egress through the Service's address")];

/// An annotation or label, who uses it, and what it means: the documentation is written from this.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Who reads or writes it.
    pub used: &'static str,
    /// What it means.
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
        "What the provider chose itself, so that it can tell a request from its own answer.",
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
        "`parent.tag`, such as `eth0.200`: an 802.1Q interface, made where it is missing, and removed when nothing uses it any more. Wins over the interface above.",
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
        "`\"true\"`: announce the Service though nothing stands behind it, with `externalTrafficPolicy: Cluster`.",
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
        "BGP mode: how often our AS stands in the path once more, from 0 to 32.",
    ),
    entry(
        HOSTNAME,
        "user; read by both",
        "The host name that a DHCP server is told; as in the Go program it is the client's identifier, too, so no two Services may have the same.",
    ),
    entry(
        HARDWARE_ADDRESS,
        "user, whoever asks; read by both",
        "The hardware address that a DHCP server knows the Service by. Without one it is made from the Service's UID, and written here.",
    ),
    entry(
        REQUESTED_IP,
        "user, whoever asks; read by both",
        "Addresses that are preferred, at most one of each family. What a DHCP server gave is written here.",
    ),
    entry(
        DHCP_BROADCAST,
        "user; read by both",
        "`\"false\"`: the answers of DHCP servers for IPv4 may come to the hardware address alone. Otherwise they are asked to answer to everybody, which a card that does not have that hardware address hears.",
    ),
    entry(
        DDNS,
        "user; read by kube-vip",
        "`\"true\"`: the address for a DNS name among the addresses is asked of a DHCP server, which is told the name and asked to put it into the DNS.",
    ),
    entry(
        MACVLAN_NAME,
        "user; read by kube-vip",
        "The name of a macvlan interface that DHCP is spoken on and the addresses go on, for networks that insist on a card's own hardware address. Services may share one. Without it no further interface is made.",
    ),
    entry(
        RP_FILTER,
        "user; read by kube-vip",
        "Reverse path filtering on that interface: `0` (the default), `1` or `2`.",
    ),
    entry(
        DHCP_LEASE,
        "whoever asks",
        "The leases of the Service: address, server, and times, so that whoever takes over goes on with them.",
    ),
    entry(
        FORWARD_UPNP,
        "user; read by kube-vip",
        "`\"true\"`: the ports of the network's gateway lead to those of the Service, with `enable_upnp` or the cloud provider's `--upnp`.",
    ),
    entry(
        UPNP_LEASE_DURATION,
        "user; read by kube-vip",
        "For how long the gateway keeps them open without hearing of kube-vip, such as `30m`; `0` is for ever. One hour without it.",
    ),
    entry(
        UPNP_EXTERNAL_PORT,
        "user; read by kube-vip",
        "Other ports of the gateway than the Service's: `80=8080,443=8443`, or one number where the Service has one port.",
    ),
    entry(
        UPNP_EXTERNAL_IP,
        "kube-vip",
        "The address that the gateway has outside, where its ports are open.",
    ),
    entry(
        UPNP_DELEGATED,
        "cloud provider",
        "`\"true\"` with its `--upnp`: the node that announces the Service opens the ports, although `enable_upnp` is not set there.",
    ),
    entry(
        MDNS,
        "user; read by kube-vip",
        "The Service's name in the local network, `web` or `web.local`; its ports that have names are found as services there.",
    ),
    entry(
        MDNS_NAME,
        "kube-vip",
        "The name under which it is found: another one than it asked for, if another host has that.",
    ),
    entry(NOT_YET[0].0, "user", "Not available in this version; an Event says so."),
];

/// Labels, on whatever object.
pub const LABELS: &[Entry] = &[
    entry(IMPLEMENTATION.0, "provider, on Services", "`kube-vip`: the provider looks after this Service."),
    entry(
        HAS_IP,
        "kube-vip, on Nodes",
        "What the node holds for the control plane, with `enable_node_labeling`.",
    ),
    entry(
        "service-provided.kube-vip.io/<service>.<namespace>",
        "kube-vip, on Nodes",
        "The addresses of a Service that the node announces, with `enable_node_labeling`. IPv6 addresses are 32 hexadecimal digits.",
    ),
];
