//! Image references.

use crate::config::Problem;

/// The variable with the reference of the image that a program runs from. The configuration of our images sets it.
pub const OWN_IMAGE: &str = "KUBE_VIP_IMAGE";

/// The image that a manifest of this program names: the given one, else that which the program runs from, else one that no registry
/// has: an image of another program would start without an error. With a warning for an image of that kind.
///
/// # Errors
/// If it is not an image reference.
pub fn choose(
    program: &str,
    given: Option<&str>,
    own: Option<&str>,
    version: &str,
) -> Result<(String, Option<String>), Problem> {
    let own = own.filter(|own| !own.is_empty()).map(|own| (own, format!("variable {OWN_IMAGE}")));
    let image = match given.map(|given| (given, "flag --image".to_owned())).or(own) {
        Some((image, origin)) => qualify(image, &origin, version)?,
        None => format!("localhost/{program}:{version}"),
    };
    // A registry on the host itself has a port.
    let warning = image.starts_with("localhost/").then(|| {
        format!("no registry has the image {image}: import it on each node, or name another with --image")
    });
    Ok((image, warning))
}

/// The reference with its registry and, without a tag or digest, our own version.
fn qualify(image: &str, origin: &str, version: &str) -> Result<String, Problem> {
    let (path, digest) = match image.split_once('@') {
        Some((path, digest)) => (path, Some(digest)),
        None => (image, None),
    };
    let (repository, tag) = match path.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (path, None),
    };
    let (registry, name) = match repository.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("index.docker.io", repository.to_owned()),
        None => ("index.docker.io", format!("library/{repository}")),
    };
    let registry = if registry == "docker.io" { "index.docker.io" } else { registry };
    let legal_part = |part: &str| {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        !part.is_empty() && part.chars().all(legal)
    };
    let legal_tag = |tag: &str| {
        (1..=128).contains(&tag.len()) && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let legal_digest = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit())
    };
    let legal = name.split('/').all(legal_part)
        && !repository.is_empty()
        && tag.is_none_or(legal_tag)
        && digest.is_none_or(legal_digest);
    if !legal {
        return Err(Problem::Combination(format!(
            "{origin}: `{image}` is not an image reference such as `registry/name:tag` or `name@sha256:…`"
        )));
    }
    Ok(match (tag, digest) {
        (Some(tag), Some(digest)) => format!("{registry}/{name}:{tag}@{digest}"),
        (None, Some(digest)) => format!("{registry}/{name}@{digest}"),
        (tag, None) => format!("{registry}/{name}:{}", tag.unwrap_or(version)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_and_tag_are_completed() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let table = [
            ("ghcr.io/kube-vip/kube-vip", "ghcr.io/kube-vip/kube-vip:v9".to_owned()),
            ("plndr/kube-vip:v1.2.3", "index.docker.io/plndr/kube-vip:v1.2.3".to_owned()),
            ("kube-vip", "index.docker.io/library/kube-vip:v9".to_owned()),
            ("localhost:5000/kube-vip:dev", "localhost:5000/kube-vip:dev".to_owned()),
            (&format!("ghcr.io/a/b@{digest}"), format!("ghcr.io/a/b@{digest}")),
        ];
        for (image, expected) in table {
            assert_eq!(qualify(image, "flag --image", "v9").as_ref(), Ok(&expected));
        }
    }

    #[test]
    fn without_a_name_the_image_is_that_of_the_program_or_one_that_cannot_be_pulled() {
        let choose = |given, own| choose("kube-vip", given, own, "v9");
        let own = Some("registry.example/kube-vip:v9-debug");
        assert_eq!(choose(None, own), Ok(("registry.example/kube-vip:v9-debug".to_owned(), None)));
        assert_eq!(choose(Some("a.example/b"), own), Ok(("a.example/b:v9".to_owned(), None)));
        let (image, warning) = choose(None, Some("")).unwrap();
        assert_eq!(image, "localhost/kube-vip:v9");
        assert!(warning.unwrap().contains("no registry has the image localhost/kube-vip:v9"));
        let (_, of_own) = choose(None, Some("localhost/kube-vip:v9")).unwrap();
        let (_, of_registry) = choose(None, Some("localhost:5000/kube-vip:v9")).unwrap();
        assert_eq!((of_own.is_some(), of_registry), (true, None));
        let wrong = choose(None, Some("a b")).unwrap_err().to_string();
        assert!(wrong.starts_with("variable KUBE_VIP_IMAGE: `a b` is not"), "{wrong}");
    }

    #[test]
    fn invalid_references_are_rejected() {
        for image in ["", "a b", "ghcr.io/Kube/Vip", "a:b c", "a@sha256:12", "a//b"] {
            assert!(qualify(image, "flag --image", "v9").is_err(), "{image}");
        }
    }
}
