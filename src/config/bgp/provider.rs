//! A provider that knows this node's peers: where it is asked, and where things stand in its answer.

use super::super::problem::nearest;

/// Where a provider is asked for peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// An HTTPS URL.
    pub url: String,
    /// What proves who asks.
    pub token: Option<Token>,
    /// The header that the token goes into; in `Authorization` the word `Bearer` stands before it.
    pub header: String,
    /// A file with a further CA.
    pub ca: Option<String>,
    /// Where things stand in the answer.
    pub shape: Shape,
}

/// What proves who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// As it was given.
    Given(String),
    /// What this file holds, read each time.
    File(String),
}

/// Where things stand in a provider's answer: JSON pointers (RFC 6901).
///
/// All but the first begin at a neighbour, and, where it has no such thing, at the whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// A list of neighbours, or a single one.
    pub neighbours: String,
    /// The neighbour's address, or a list of addresses.
    pub peer_addresses: String,
    /// The neighbour's AS.
    pub peer_as: String,
    /// Our AS.
    pub local_as: String,
    /// The address to come from; our router ID too, where that is not set.
    pub source_address: String,
    /// The password, where there is one.
    pub password: String,
    /// Whether the neighbour is more than one hop away, where that is said.
    pub multihop: String,
}

/// The shapes that have a name.
const NAMED: [&str; 1] = ["equinix"];
const FIELDS: [&str; 7] =
    ["neighbours", "peerAddresses", "peerAS", "localAS", "sourceAddress", "password", "multihop"];

impl Shape {
    /// The metadata of Equinix Metal's machines.
    pub fn equinix() -> Self {
        Self {
            neighbours: "/bgp_neighbors".into(),
            peer_addresses: "/peer_ips".into(),
            peer_as: "/peer_as".into(),
            local_as: "/customer_as".into(),
            source_address: "/customer_ip".into(),
            password: "/md5_password".into(),
            multihop: "/multihop".into(),
        }
    }

    /// A shape by its name, with other places for some fields: `equinix`, `peerAS=/asn`.
    ///
    /// # Errors
    /// What of it cannot be read, each in a sentence.
    pub fn read<T: AsRef<str>>(items: &[T]) -> Result<Self, Vec<String>> {
        let (mut shape, mut problems) = (Self::equinix(), Vec::new());
        for item in items {
            let item = item.as_ref();
            let Some((name, pointer)) = item.split_once('=') else {
                if !NAMED.contains(&item) {
                    problems.push(format!(
                        "`{item}` is neither the name of a shape ({}) nor `field=pointer`",
                        NAMED.join(", ")
                    ));
                }
                continue;
            };
            let field = match name {
                "neighbours" => &mut shape.neighbours,
                "peerAddresses" => &mut shape.peer_addresses,
                "peerAS" => &mut shape.peer_as,
                "localAS" => &mut shape.local_as,
                "sourceAddress" => &mut shape.source_address,
                "password" => &mut shape.password,
                "multihop" => &mut shape.multihop,
                _ => {
                    let hint = nearest(name, FIELDS);
                    problems.push(format!("there is no field `{name}`, but {}{hint}", FIELDS.join(", ")));
                    continue;
                }
            };
            if !pointer.is_empty() && !pointer.starts_with('/') {
                problems
                    .push(format!("`{item}`: a JSON pointer begins with a slash, as in /peers/0/address"));
            }
            pointer.clone_into(field);
        }
        if problems.is_empty() { Ok(shape) } else { Err(problems) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_or_told_apart() {
        assert_eq!(Shape::read(&["equinix"]), Ok(Shape::equinix()));
        let shape = Shape::read(&["neighbours=", "peerAS=/remote/asn"]).unwrap();
        assert_eq!((shape.neighbours.as_str(), shape.peer_as.as_str()), ("", "/remote/asn"));
        let problems = Shape::read(&["packet", "peerAs=/a", "localAS=a"]).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[1].contains("did you mean `peerAS`?"), "{problems:?}");
    }
}
