//! The schema of the values of the Helm chart: a typo in the name of a setting is an error of `helm install`.

use serde_json::{Map, Value, json};

use crate::config::SETTINGS;

/// JSON Schema of charts/kube-vip/values.yaml.
pub fn schema() -> Value {
    let scalar = json!({ "type": ["string", "boolean", "number", "null"] });
    let variables = || SETTINGS.iter().flat_map(|setting| setting.env.iter());
    let flags =
        || SETTINGS.iter().flat_map(|setting| setting.flags.iter().map(|name| name.trim_start_matches('!')));
    let named = |names: &mut dyn Iterator<Item = &str>, value: &Value| {
        let properties: Map<String, Value> = names.map(|name| (name.to_owned(), value.clone())).collect();
        json!({ "type": ["object", "null"], "properties": properties, "additionalProperties": false })
    };
    // Not settings, such as KUBERNETES_SERVICE_HOST: their names are upper case.
    let with_others = |mut schema: Value, value: &Value| {
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("patternProperties".to_owned(), json!({ "^[A-Z]": value }));
        }
        schema
    };
    let env = with_others(named(&mut variables().copied(), &scalar), &scalar);
    let (text, switch) = (json!({ "type": "string" }), json!({ "type": "boolean" }));
    let (object, list) = (json!({ "type": ["object", "null"] }), json!({ "type": ["array", "null"] }));
    let closed = |properties: Value| json!({ "type": "object", "properties": properties, "additionalProperties": false });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "global": object,
            // Of a chart that this one is a dependency of.
            "enabled": switch,
            "image": closed(json!({ "repository": text, "tag": scalar, "pullPolicy": text })),
            "imagePullSecrets": list,
            "config": closed(json!({ "address": text })),
            "env": env,
            "envValueFrom": with_others(named(&mut variables().copied(), &object), &object),
            "envFrom": list,
            "extraArgs": named(&mut flags(), &scalar),
            "separate": closed(json!({ "enabled": switch, "env": env })),
            "nameOverride": text,
            "fullnameOverride": text,
            "namespaceOverride": text,
            "serviceAccount": closed(json!({ "create": switch, "annotations": object, "name": text })),
            "rbac": closed(json!({ "create": switch, "goProgram": switch, "extraRules": list })),
            "annotations": object,
            "extraLabels": object,
            "podAnnotations": object,
            "podSecurityContext": object,
            "securityContext": object,
            "updateStrategy": object,
            "resources": object,
            "volumes": list,
            "volumeMounts": list,
            "hostAliases": list,
            "nodeSelector": object,
            "tolerations": list,
            "affinity": object,
            "priorityClassName": text,
            "podMonitor": closed(json!({ "enabled": switch, "labels": object, "annotations": object })),
            "prometheusRule": { "type": ["object", "null"], "properties": { "enabled": switch, "labels": object }, "additionalProperties": false },
        },
    })
}
