//! A provider's API that defines the peers of this node, and the shape of its reply.

use super::super::problem::nearest;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// An HTTPS URL.
    pub url: String,
    pub token: Option<Token>,
    /// Header of the token; in `Authorization` it is preceded by `Bearer`.
    pub header: String,
    /// File with an additional CA.
    pub ca: Option<String>,
    pub shape: Shape,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Given(String),
    /// Path of a file that is read for each query.
    File(String),
}

/// JSON pointers (RFC 6901) into a provider's reply. All but the first are looked up in a neighbour, then in the whole
/// reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// A list of neighbours, or one neighbour.
    pub neighbours: String,
    /// An address, or a list.
    pub peer_addresses: String,
    pub peer_as: String,
    pub local_as: String,
    /// Source address; also the router ID unless that is configured.
    pub source_address: String,
    /// Optional.
    pub password: String,
    /// Optional.
    pub multihop: String,
}

/// Predefined shapes.
const NAMED: [&str; 1] = ["equinix"];
const FIELDS: [&str; 7] =
    ["neighbours", "peerAddresses", "peerAS", "localAS", "sourceAddress", "password", "multihop"];

impl Shape {
    /// The metadata of Equinix Metal.
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

    /// Parses the name of a shape and pointers that differ: `equinix`, `peerAS=/asn`.
    ///
    /// # Errors
    /// All invalid items.
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
                    problems
                        .push(format!("unknown field `{name}`: the fields are {}{hint}", FIELDS.join(", ")));
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
    fn shapes_have_a_name_or_pointers() {
        assert_eq!(Shape::read(&["equinix"]), Ok(Shape::equinix()));
        let shape = Shape::read(&["neighbours=", "peerAS=/remote/asn"]).unwrap();
        assert_eq!((shape.neighbours.as_str(), shape.peer_as.as_str()), ("", "/remote/asn"));
        let problems = Shape::read(&["packet", "peerAs=/a", "localAS=a"]).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[1].contains("did you mean `peerAS`?"), "{problems:?}");
    }
}
