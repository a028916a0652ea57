//! A software bill of materials in the format CycloneDX 1.6.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::crates::{Crate, Id};

/// Of one program. Crates that run only while it is built have the scope `excluded`.
pub(super) fn document(program: &str, crates: &BTreeMap<&Id, &Crate>, created: &str) -> Value {
    let own: Vec<Value> = crates
        .iter()
        .filter(|(id, _)| id.0 == program)
        .map(|(id, one)| component(id, one, "application"))
        .collect();
    let others: Vec<Value> = crates
        .iter()
        .filter(|(id, _)| id.0 != program)
        .map(|(id, one)| component(id, one, "library"))
        .collect();
    let dependencies: Vec<Value> = crates
        .iter()
        .map(|(id, one)| {
            let uses = one.uses.iter().filter_map(|id| crates.get_key_value(id));
            let uses: Vec<String> = uses.map(|(id, one)| url(id, one)).collect();
            json!({ "ref": url(id, one), "dependsOn": uses })
        })
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "timestamp": created, "component": own.first() },
        "components": others,
        "dependencies": dependencies,
    })
}

fn component(id: &Id, one: &Crate, kind: &str) -> Value {
    let mut value = json!({
        "type": kind,
        "bom-ref": url(id, one),
        "name": id.0,
        "version": id.1,
        "purl": url(id, one),
        "scope": if one.linked { "required" } else { "excluded" },
        "licenses": [{ "expression": expression(&one.licence) }],
    });
    let hashes = one.checksum.as_ref().map(|sum| json!([{ "alg": "SHA-256", "content": sum }]));
    let references = one.repository.as_ref().map(|url| json!([{ "type": "vcs", "url": url }]));
    if let Some(value) = value.as_object_mut() {
        let parts = [("hashes", hashes), ("externalReferences", references)];
        value.extend(parts.into_iter().filter_map(|(key, part)| Some((key.to_owned(), part?))));
    }
    value
}

/// A package URL. The crates of this project are in no registry.
fn url((name, version): &Id, one: &Crate) -> String {
    let kind = if one.checksum.is_some() { "cargo" } else { "generic" };
    format!("pkg:{kind}/{name}@{version}")
}

/// Older crates write a slash for OR.
fn expression(licence: &str) -> String {
    licence.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_has_its_source_licence_and_checksum() {
        let id = |name: &str| (name.to_owned(), "1.2.3".to_owned());
        let one = |uses: &[&str], linked| Crate {
            licence: "MIT/Apache-2.0".to_owned(),
            repository: Some("https://example/a".to_owned()),
            folder: "/src".into(),
            checksum: Some("12".to_owned()),
            uses: uses.iter().map(|name| id(name)).collect(),
            linked,
        };
        let program = Crate { checksum: None, ..one(&["library"], true) };
        let (library, script) = (one(&["script"], true), one(&[], false));
        let names = [id("agent"), id("library"), id("script")];
        let crates = names.iter().zip([&program, &library, &script]).collect();
        let document = document("agent", &crates, "2026-01-02T03:04:05Z");
        assert_eq!(document["metadata"]["component"]["purl"], "pkg:generic/agent@1.2.3");
        let [library, script] = document["components"].as_array().unwrap().as_slice() else { panic!() };
        assert_eq!((&library["scope"], &script["scope"]), (&json!("required"), &json!("excluded")));
        assert_eq!(library["licenses"], json!([{ "expression": "MIT OR Apache-2.0" }]));
        assert_eq!(library["hashes"], json!([{ "alg": "SHA-256", "content": "12" }]));
        assert_eq!(document["dependencies"][0]["dependsOn"], json!(["pkg:cargo/library@1.2.3"]));
    }
}
