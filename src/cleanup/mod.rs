//! `kube-vip cleanup --upstream`: removes what the Go program of the same name leaves on a host.

pub mod driver;
pub mod ipvs;

use std::fmt;
use std::net::IpAddr;

use crate::model::Interface;
use crate::model::hash::fnv1a_32;
use crate::net::nft::rules::{Deletion, Member, NFPROTO_IPV4, NFPROTO_IPV6, Rule, Ruleset, Table};

/// In the comments of rules of Services' ports and of masquerading, after `<namespace>/<name>`, `control-plane` or the VIP.
const COMMENT: &str = " kube-vip load balancer IP";
/// What such a comment ends with; the last one has the VIP and the mark after it.
const ENDINGS: [&str; 6] = ["", " - TCP ports", " - UDP ports", " - SCTP ports", " - DHCP", " - drop"];
const IPVS_ENDING: &str = " - IPVS, VIP ";
/// The comments of its rules of egress, and of its jumps to their chain, begin with it.
const EGRESS: &str = "a3ViZS12aXAK=kube-vip";
/// Chains that it creates in the table `mangle` of iptables.
const CHAINS: [&str; 2] = ["KUBE-VIP-EGRESS", "ipvs_prerouting"];
/// Tables of its own: `kube_vip_v4`, `kube_vip_<instance>_v6`.
const TABLE_PREFIX: &str = "kube_vip_";
const TABLE_SUFFIXES: [(&str, u8); 2] = [("_v4", NFPROTO_IPV4), ("_v6", NFPROTO_IPV6)];
/// Their chains begin with one of these.
const CHAIN_PREFIXES: [&str; 2] = ["kube_vip_", "kvip_"];
/// A macvlan for DHCP is `vip-` and the beginning of the Service's UID, with a hardware address of this range.
const MACVLAN_PREFIX: &str = "vip-";
const MACVLAN_RANGE: [u8; 3] = [0x00, 0x00, 0x6c];

/// What the Go program has left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// In the order in which they can be deleted.
    pub nft: Vec<Deletion>,
    pub interfaces: Vec<Interface>,
}

impl Leftovers {
    /// What is left among the rules and the interfaces of a host.
    #[must_use]
    pub fn of(ruleset: &Ruleset, interfaces: &[Interface]) -> Self {
        let is_own = |table: &Table| {
            let mut chains = ruleset.chains.iter().filter(|chain| chain.table == *table);
            is_own_table(table)
                && chains.all(|chain| CHAIN_PREFIXES.iter().any(|it| chain.name.starts_with(it)))
        };
        let tables: Vec<&Table> = ruleset.tables.iter().filter(|table| is_own(table)).collect();
        // They go with their table.
        let elsewhere = |table: &Table| !tables.contains(&table);
        let is_own = |rule: &&Rule| elsewhere(&rule.chain.table) && is_own_comment(&rule.comment);
        let rules: Vec<&Rule> = ruleset.rules.iter().filter(is_own).collect();
        // Rules in it, and jumps to it.
        let only_own_rules = |chain: &Member| {
            let mut concerned = ruleset.rules.iter().filter(|rule| {
                rule.chain == *chain
                    || (rule.chain.table == chain.table && rule.target.as_ref() == Some(&chain.name))
            });
            concerned.all(|rule| rules.contains(&rule))
        };
        let chains = ruleset.chains.iter().filter(|chain| {
            is_mangle(&chain.table) && CHAINS.contains(&chain.name.as_str()) && only_own_rules(chain)
        });
        let named = |rule: &&Rule| format!("{:x}", fnv1a_32(rule.comment.as_bytes()));
        let names: Vec<(&Table, String)> =
            rules.iter().map(|rule| (&rule.chain.table, named(rule))).collect();
        let sets = ruleset
            .sets
            .iter()
            .filter(|set| names.iter().any(|(table, name)| **table == set.table && *name == set.name));
        let nft = rules.iter().map(|rule| Deletion::Rule((*rule).clone()));
        let nft = nft.chain(chains.cloned().map(Deletion::Chain)).chain(sets.cloned().map(Deletion::Set));
        let nft = nft.chain(tables.into_iter().cloned().map(Deletion::Table)).collect();
        Self { nft, interfaces: interfaces.iter().filter(|it| is_own_macvlan(it)).cloned().collect() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nft.is_empty() && self.interfaces.is_empty()
    }
}

fn is_own_table(Table { family, name }: &Table) -> bool {
    TABLE_SUFFIXES.iter().any(|(suffix, of)| {
        let base = name.strip_suffix(suffix).filter(|_| family == of);
        base.is_some_and(|base| base == "kube_vip" || base.starts_with(TABLE_PREFIX))
    })
}

fn is_mangle(Table { family, name }: &Table) -> bool {
    name == "mangle" && [NFPROTO_IPV4, NFPROTO_IPV6].contains(family)
}

fn is_own_comment(comment: &str) -> bool {
    let of_object = comment.split_once(COMMENT).is_some_and(|(object, ending)| {
        let is_object = object == "control-plane"
            || object.parse::<IpAddr>().is_ok()
            || (object.contains('/') && !object.contains(char::is_whitespace));
        is_object && (ENDINGS.contains(&ending) || ending.starts_with(IPVS_ENDING))
    });
    of_object || comment.starts_with(EGRESS)
}

/// Those that this program creates have an alias, by which it removes them itself.
fn is_own_macvlan(interface: &Interface) -> bool {
    let digits = interface.name.strip_prefix(MACVLAN_PREFIX);
    digits.is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        && interface.hardware_address.starts_with(&MACVLAN_RANGE)
        && interface.is_macvlan
        && !interface.managed
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.nft.iter().try_for_each(|deletion| writeln!(f, "{deletion}"))?;
        self.interfaces.iter().try_for_each(|interface| writeln!(f, "interface {}", interface.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(family: u8, name: &str) -> Table {
        Table { family, name: name.into() }
    }

    fn member(table: &Table, name: &str) -> Member {
        Member { table: table.clone(), name: name.into() }
    }

    fn rule(chain: &Member, handle: u64, comment: &str, target: Option<&str>) -> Rule {
        Rule {
            accepts: false,
            chain: chain.clone(),
            handle,
            comment: comment.into(),
            target: target.map(Into::into),
        }
    }

    #[test]
    fn what_the_go_program_made_is_found_and_nothing_else() {
        let (filter, mangle) = (table(2, "filter"), table(2, "mangle"));
        let (own, other) = (table(2, "kube_vip_v4"), table(2, "kube_vipers"));
        let firewall = table(2, "kube_vip_firewall_v4");
        let other_family = table(1, "kube_vip_v4");
        let input = member(&filter, "INPUT");
        let prerouting = member(&mangle, "PREROUTING");
        let egress = member(&mangle, "KUBE-VIP-EGRESS");
        let marks = member(&mangle, "ipvs_prerouting");
        let ports = "default/web kube-vip load balancer IP - TCP ports";
        let set = format!("{:x}", fnv1a_32(ports.as_bytes()));
        let ruleset = Ruleset {
            tables: vec![
                filter.clone(),
                mangle.clone(),
                own.clone(),
                other,
                other_family.clone(),
                firewall.clone(),
            ],
            chains: vec![
                input.clone(),
                prerouting.clone(),
                egress.clone(),
                marks.clone(),
                member(&other_family, "ipvs_prerouting"),
                member(&own, "kube_vip_snat_1"),
                member(&firewall, "kube_vip_snat_1"),
                member(&firewall, "ssh"),
            ],
            dropping: Vec::new(),
            sets: vec![member(&filter, &set), member(&filter, "a-set")],
            rules: vec![
                rule(&input, 1, ports, None),
                rule(&input, 2, "ssh", None),
                rule(&input, 10, "192.0.2.10 kube-vip load balancer IP", None),
                rule(&input, 9, "my notes on kube-vip load balancer IP", None),
                rule(&input, 12, "control-plane kube-vip load balancer IP: keep this", None),
                rule(&prerouting, 3, "a3ViZS12aXAK=kube-vip-default", Some("KUBE-VIP-EGRESS")),
                rule(&prerouting, 4, "", Some("KUBE-MARK")),
                rule(&egress, 5, "a3ViZS12aXAK=kube-vip-default", None),
                rule(
                    &marks,
                    6,
                    "control-plane kube-vip load balancer IP - IPVS, VIP 192.0.2.1, MARK 10042",
                    None,
                ),
                rule(&marks, 7, "of another program", None),
                rule(&member(&own, "kube_vip_snat_1"), 8, "", None),
            ],
        };
        let found: Vec<String> = Leftovers::of(&ruleset, &[]).nft.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "rule of chain INPUT of table ip filter, with the comment `default/web kube-vip load balancer IP - TCP ports`".to_owned(),
                "rule of chain INPUT of table ip filter, with the comment `192.0.2.10 kube-vip load balancer IP`".to_owned(),
                "rule of chain PREROUTING of table ip mangle, with the comment `a3ViZS12aXAK=kube-vip-default`".to_owned(),
                "rule of chain KUBE-VIP-EGRESS of table ip mangle, with the comment `a3ViZS12aXAK=kube-vip-default`".to_owned(),
                "rule of chain ipvs_prerouting of table ip mangle, with the comment `control-plane kube-vip load balancer IP - IPVS, VIP 192.0.2.1, MARK 10042`".to_owned(),
                // Not ipvs_prerouting, in which another rule remains.
                "chain KUBE-VIP-EGRESS of table ip mangle".to_owned(),
                format!("set {set} of table ip filter"),
                "table ip kube_vip_v4".to_owned(),
            ]
        );
    }

    #[test]
    fn a_chain_stays_while_a_rule_of_others_is_in_it_or_jumps_to_it() {
        let mangle = table(2, "mangle");
        let chain = |name| member(&mangle, name);
        let (egress, prerouting) = (chain(CHAINS[0]), chain("PREROUTING"));
        let jump = Some(CHAINS[0]);
        let table = [
            (rule(&egress, 1, "a3ViZS12aXAK=kube-vip-default", None), true),
            (rule(&prerouting, 1, "a3ViZS12aXAK=kube-vip-default", jump), true),
            (rule(&prerouting, 1, "", Some("OTHER")), true),
            (rule(&member(&table(10, "mangle"), "PREROUTING"), 1, "", jump), true),
            (rule(&egress, 1, "of the operator", None), false),
            (rule(&egress, 1, "", None), false),
            (rule(&prerouting, 1, "", jump), false),
            (rule(&chain("OPERATOR"), 1, "", jump), false),
        ];
        for (rule, removed) in table {
            let chains = vec![egress.clone(), prerouting.clone()];
            let ruleset = Ruleset { chains, rules: vec![rule], ..Ruleset::default() };
            let found = Leftovers::of(&ruleset, &[]).nft;
            assert_eq!(found.contains(&Deletion::Chain(egress.clone())), removed, "{ruleset:?}");
        }
    }

    #[test]
    fn macvlans_are_known_by_name_and_hardware_address() {
        let interface = |name: &str, hardware: [u8; 6], managed, is_macvlan| Interface {
            name: name.into(),
            hardware_address: hardware.into(),
            managed,
            is_macvlan,
            ..Interface::default()
        };
        let (range, other) = ([0x00, 0x00, 0x6c, 1, 2, 3], [2, 0, 0, 1, 2, 3]);
        let table = [
            (interface("vip-0a1b2c3d", range, false, true), true),
            (interface("vip-0a1b2c3d", range, true, true), false),
            (interface("vip-0a1b2c3d", other, false, true), false),
            (interface("vip-0a1b2c3d", range, false, false), false),
            (interface("vip-lan", range, false, true), false),
            (interface("eth0", range, false, true), false),
        ];
        for (interface, own) in table {
            let found = Leftovers::of(&Ruleset::default(), std::slice::from_ref(&interface));
            assert_eq!(!found.is_empty(), own, "{interface:?}");
        }
    }
}
