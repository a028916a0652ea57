//! Parts of the schemas of Helm charts' values (JSON Schema, draft 7).

use serde_json::{Map, Value, json};

use crate::config::Kind;

/// A text, number, boolean, or nothing.
#[must_use]
pub fn scalar() -> Value {
    json!({ "type": ["string", "boolean", "number", "null"] })
}

#[must_use]
pub fn text() -> Value {
    json!({ "type": "string" })
}

#[must_use]
pub fn switch() -> Value {
    json!({ "type": "boolean" })
}

#[must_use]
pub fn object() -> Value {
    json!({ "type": ["object", "null"] })
}

#[must_use]
pub fn list() -> Value {
    json!({ "type": ["array", "null"] })
}

/// Labels, annotations or selectors: the API server accepts texts only.
#[must_use]
pub fn texts() -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": { "type": ["string", "null"] } })
}

/// An object with these properties and no other.
#[must_use]
pub fn closed(properties: &Value) -> Value {
    json!({ "type": ["object", "null"], "properties": properties, "additionalProperties": false })
}

/// The same, by name.
#[must_use]
pub fn named(properties: impl IntoIterator<Item = (String, Value)>) -> Value {
    closed(&Value::Object(properties.into_iter().collect::<Map<_, _>>()))
}

/// The tag 0.10 has to be quoted: without quotes it is the number 0.1.
#[must_use]
pub fn image() -> Value {
    closed(&json!({
        "repository": text(),
        "tag": { "type": ["string", "integer", "null"] },
        "pullPolicy": { "enum": ["", "Always", "IfNotPresent", "Never"] },
    }))
}

/// What a setting accepts, as text or as what YAML makes of it; with [`definitions`].
#[must_use]
pub fn setting(kind: Kind) -> Value {
    let defined = |name: &str| json!({ "$ref": format!("#/definitions/{name}") });
    match kind {
        Kind::Bool => defined("boolean"),
        Kind::Duration => defined("duration"),
        Kind::Url => defined("url"),
        Kind::Int(low, high) => {
            let number = json!({ "type": ["integer", "null"], "minimum": low, "maximum": high });
            let (sign, digits) =
                (if low < 0 { "[+-]?" } else { "[+]?0*" }, low.abs().max(high).to_string().len());
            matching(&number, &format!("{sign}[0-9]{{1,{digits}}}"))
        }
        Kind::OneOf(words) => matching(&json!({ "type": "null" }), &in_any_case(words)),
        Kind::Text | Kind::TextOrNothing | Kind::Secret | Kind::SecretList | Kind::List | Kind::JsonMap => {
            defined("scalar")
        }
    }
}

/// What [`setting`] refers to.
#[must_use]
pub fn definitions() -> Map<String, Value> {
    let duration = r"\+?([0-9.]+(ns|us|µs|μs|ms|s|m|h))+|0";
    let definitions = [
        ("boolean", matching(&json!({ "enum": [null, true, false, 0, 1] }), BOOLEANS)),
        ("duration", matching(&json!({ "enum": [null, 0] }), duration)),
        ("url", matching(&json!({ "type": "null" }), "[hH][tT][tT][pP][sS]?://.+")),
        ("scalar", scalar()),
    ];
    definitions.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
}

/// A boolean in Go's notation.
const BOOLEANS: &str = "1|t|T|TRUE|true|True|0|f|F|FALSE|false|False";

/// `other`, or a text that is empty or of this form.
fn matching(other: &Value, pattern: &str) -> Value {
    json!({ "anyOf": [other, { "type": "string", "pattern": format!(r"^\s*({pattern})?\s*$") }] })
}

/// This, or a text with a template of Helm.
#[must_use]
pub fn or_template(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "string", "pattern": r"\{\{" }] })
}

/// A regular expression; those of JSON Schema have no flag for it.
fn in_any_case(words: &[&str]) -> String {
    let letter = |letter: char| match (letter.to_ascii_lowercase(), letter.to_ascii_uppercase()) {
        (lower, upper) if lower == upper => lower.to_string(),
        (lower, upper) => format!("[{lower}{upper}]"),
    };
    let words = words.iter().map(|word| word.chars().map(letter).collect::<String>());
    words.collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_matched_in_any_case() {
        assert_eq!(in_any_case(&["ipv4", "a_b"]), "[iI][pP][vV]4|[aA]_[bB]");
    }
}
