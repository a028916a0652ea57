//! The effective configuration: every value with its origin, secrets masked; and the reference of all settings.

use super::bgp::{is_json, split_fields};
use super::raw::Raw;
use super::settings::{Key, Kind, SETTINGS, Setting};
use super::value::named;

const MASK: &str = "********";

/// The value of `key`, without secrets.
pub fn masked(raw: &Raw, key: Key) -> String {
    let value = raw.text(key);
    match key.setting().kind {
        _ if value.is_empty() => String::new(),
        Kind::Secret => MASK.to_owned(),
        Kind::SecretList => mask_peers(value),
        _ => value.to_owned(),
    }
}

/// Masks the password of each peer.
fn mask_peers(peers: &str) -> String {
    if is_json(peers) {
        // A secret could be anywhere in an unreadable value.
        let Ok(mut values) = serde_json::from_str::<Vec<serde_json::Value>>(peers) else {
            return MASK.to_owned();
        };
        for value in &mut values {
            if let serde_json::Value::String(text) = value {
                *text = mask_peers(text);
            }
            for (key, value) in value.as_object_mut().into_iter().flatten() {
                if key.eq_ignore_ascii_case("password") {
                    *value = MASK.into();
                }
            }
        }
        return serde_json::Value::Array(values).to_string();
    }
    let mask = |peer: &str| {
        // The address of an unnumbered peer is two fields: `unnumbered:eth0`.
        let password = if peer.trim_start().starts_with("unnumbered:") { 3 } else { 2 };
        let mut fields = split_fields(peer);
        if let Some(field) = fields.get_mut(password).filter(|field| !field.is_empty()) {
            *field = MASK;
        }
        fields.join(":")
    };
    peers.split(',').map(mask).collect::<Vec<_>>().join(",")
}

/// The effective configuration as YAML that `--config-file` reads back, except for secrets.
pub fn yaml(raw: &Raw) -> String {
    let mut text = String::from("# Precedence: environment variable over flag over file over default.\n");
    by_section(
        &mut text,
        |section| format!("\n# {section}\n"),
        |setting| {
            let name = setting.file.first().or(setting.env.first()).copied().unwrap_or_default();
            let value = masked(raw, setting.key);
            let value = if setting.kind == Kind::Bool || matches!(setting.kind, Kind::Int(..)) {
                value
            } else {
                // A JSON string is a YAML string.
                serde_json::Value::from(value).to_string()
            };
            format!("{name}: {value} # {}\n", raw.origin(setting.key))
        },
    );
    text
}

/// The reference of all settings, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration reference\n\n\
         <!-- Written by `cargo xtask docs` from src/config/settings.rs; a test fails when it is out of date. -->\n\n\
         Every setting is an environment variable, a flag, or a key of the file given by `--config-file` (or\n\
         `config_file`). An environment variable overrides a flag, and a flag overrides the file. An empty variable\n\
         counts as unset, except for `prometheus_server` and `lb_class_name`. Booleans are those of Go: `1`, `t`,\n\
         `true`, `0`, `f`, `false`, also capitalized. All problems are reported at once, each with its origin.\n\
         `kube-vip config` prints the effective values with the origin of each.\n",
    );
    let heading = |section: &str| {
        format!(
            "\n## {section}\n\n| Variable | Flag | File key | Type | Default | Meaning |\n|---|---|---|---|---|---|\n"
        )
    };
    by_section(&mut text, heading, |setting| {
        format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            code(setting.env, ""),
            code(setting.flags, "--"),
            code(setting.file, ""),
            kind(setting),
            if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) },
            setting.help
        )
    });
    text
}

/// Appends a heading for each section, and a row for each setting.
fn by_section(text: &mut String, heading: impl Fn(&str) -> String, row: impl Fn(&Setting) -> String) {
    for section in SETTINGS.chunk_by(|one, next| one.section == next.section) {
        text.extend(section.first().map(|setting| heading(setting.section)));
        text.extend(section.iter().map(&row));
    }
}

fn code(names: &[&str], prefix: &str) -> String {
    let shown: Vec<String> =
        names.iter().map(|name| format!("`{prefix}{}`", name.trim_start_matches('!'))).collect();
    shown.join(", ")
}

fn kind(setting: &Setting) -> String {
    match setting.kind {
        Kind::Bool => "boolean".into(),
        Kind::Text | Kind::TextOrNothing => "text".into(),
        Kind::Secret => "secret".into(),
        Kind::SecretList | Kind::List => "list".into(),
        Kind::Int(low, high) => format!("{low} to {high}"),
        Kind::OneOf(words) => named(words).join(", "),
        Kind::Duration => "duration".into(),
        Kind::Url => "URL".into(),
        Kind::JsonMap => "JSON object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw::Sources;
    use super::*;

    fn raw(env: &[(&str, &str)]) -> Raw {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Raw::collect(&Sources { env, ..Sources::default() }).0
    }

    #[test]
    fn secrets_are_masked_and_origins_shown() {
        let raw = raw(&[
            ("bgp_peerpass", "hunter2"),
            ("bgp_peers", "192.0.2.1:65000:pw:false,[fd00::1]:65001::true,unnumbered:eth0:1:pw"),
        ]);
        let text = yaml(&raw);
        assert!(!text.contains("hunter2") && !text.contains("pw"), "{text}");
        assert!(text.contains("[fd00::1]:65001::true,unnumbered:eth0:1:********"), "{text}");
        assert!(text.contains("port: 6443 # default"), "{text}");
    }

    #[test]
    fn the_printed_configuration_can_be_read_back() {
        let before =
            raw(&[("vip_arp", "true"), ("address", "2001:db8::1"), ("vip_leaseannotations", r#"{"a":"b"}"#)]);
        let text = yaml(&before);
        let read = |_: &str| Ok(text.clone());
        let flags = vec![("config-file".to_owned(), "c.yaml".to_owned())];
        let (after, problems, _) =
            Raw::collect(&Sources { flags, read_file: Some(&read), ..Sources::default() });
        assert_eq!(problems, []);
        for setting in SETTINGS {
            if setting.key != Key::ConfigFile {
                assert_eq!(before.text(setting.key), after.text(setting.key), "{:?}", setting.key);
            }
        }
    }
}
