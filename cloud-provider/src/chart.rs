//! The schema of the values of the Helm chart: a typo in a key of the ConfigMap or in a flag is an error of `helm install`.

use serde_json::{Map, Value, json};

use crate::{cli, pools};

/// JSON Schema of charts/kube-vip-cloud-provider/values.yaml.
#[must_use]
pub fn schema() -> Value {
    let scalar = json!({ "type": ["string", "boolean", "number", "null"] });
    let (text, switch) = (json!({ "type": "string" }), json!({ "type": "boolean" }));
    let (object, list) = (json!({ "type": ["object", "null"] }), json!({ "type": ["array", "null"] }));
    let closed = |properties: Value| json!({ "type": "object", "properties": properties, "additionalProperties": false });
    let flags: Map<String, Value> =
        cli::flag_names().into_iter().map(|name| (name, scalar.clone())).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "global": object,
            // Of a chart that this one is a dependency of.
            "enabled": switch,
            "replicasCount": { "type": "integer", "minimum": 0 },
            "image": closed(json!({ "repository": text, "tag": scalar, "pullPolicy": text })),
            "imagePullSecrets": list,
            "nameOverride": text,
            "fullnameOverride": text,
            "namespaceOverride": text,
            "cm": closed(json!({ "data": {
                "type": ["object", "null"],
                "patternProperties": { (pools::key_pattern()): scalar },
                "additionalProperties": false,
            }})),
            "configMapName": text,
            "enableloadbalancerClass": switch,
            "extraEnv": { "type": ["object", "null"], "additionalProperties": scalar },
            "extraArgs": { "type": ["object", "null"], "properties": flags, "additionalProperties": false },
            "annotations": object,
            "resources": object,
            "nodeSelector": object,
            "tolerations": list,
            "affinity": object,
            "priorityClassName": text,
            "rbac": closed(json!({ "create": switch, "goProgram": switch })),
        },
    })
}
