//! Keys of a peer map.

/// Keys of a peer map. The first ones also exist in the string format of the Go program.
pub const PEER_KEYS: [&str; 27] = [
    "address",
    "as",
    "password",
    "multiHop",
    "port",
    "interface",
    "mpbgpNexthop",
    "mpbgpIPv4",
    "mpbgpIPv6",
    "bfdEnabled",
    "bfdReceiveInterval",
    "bfdTransmitInterval",
    "bfdDetectMultiplier",
    "holdTime",
    "keepaliveInterval",
    "passive",
    "ttlSecurityHops",
    "families",
    "sourceIP",
    "sourceIF",
    "communities",
    "largeCommunities",
    "localPref",
    "med",
    "prepend",
    "passwordSecret",
    "nodeSelector",
];
/// Number of keys that exist in the string format.
const PLAIN: usize = 13;

/// Whether the string format has this key.
pub(super) fn is_plain(key: &str) -> bool {
    PEER_KEYS.iter().take(PLAIN).any(|plain| *plain == key)
}
