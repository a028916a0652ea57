//! The schema of the values of the Helm chart: a typo in a key of the ConfigMap or in a flag is an error of `helm install`.

use kube_vip::manifest::schema::{closed, image, list, named, object, scalar, switch, text, texts};
use serde_json::{Value, json};

use crate::{cli, pools};

/// JSON Schema of charts/kube-vip-cloud-provider/values.yaml.
#[must_use]
pub fn schema() -> Value {
    let pools = json!({
        "type": ["object", "null"],
        "patternProperties": { (pools::key_pattern()): scalar() },
        "additionalProperties": false,
    });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "global": object(),
            // Of a chart that this one is a dependency of.
            "enabled": switch(),
            "replicasCount": { "type": "integer", "minimum": 0 },
            "image": image(),
            "imagePullSecrets": list(),
            "nameOverride": text(),
            "fullnameOverride": text(),
            "namespaceOverride": text(),
            "cm": closed(&json!({ "data": pools })),
            "configMapName": text(),
            "enableloadbalancerClass": switch(),
            "extraEnv": { "type": ["object", "null"], "additionalProperties": scalar() },
            "extraArgs": named(cli::flag_names().into_iter().map(|name| (name, scalar()))),
            "annotations": texts(),
            "resources": object(),
            "nodeSelector": texts(),
            "tolerations": list(),
            "affinity": object(),
            "priorityClassName": text(),
            "rbac": closed(&json!({ "create": switch(), "goProgram": switch() })),
        },
    })
}
