//! The schema of the values of the Helm chart: a typo in the name of a setting, or a value of another form, is an error of
//! `helm install`.

use serde_json::{Value, json};

use super::schema::{
    closed, definitions, image, list, named, object, or_template, scalar, setting, switch, text, texts,
};
use crate::config::SETTINGS;

/// Variables that older versions of the Go program had: their values stay in releases of its chart, and have no effect.
pub const FORMER: [&str; 7] = [
    "vip_cidr",
    "vip_addpeerstolb",
    "provider_config",
    "enable_endpointslices",
    "vip_packet",
    "vip_packetproject",
    "vip_packetprojectid",
];

/// JSON Schema of charts/kube-vip/values.yaml.
pub fn schema() -> Value {
    let variables = |value: fn(crate::config::Kind) -> Value| {
        SETTINGS
            .iter()
            .flat_map(move |it| it.env.iter().map(move |name| ((*name).to_owned(), value(it.kind))))
    };
    let flags = SETTINGS.iter().flat_map(|it| {
        let names = it.flags.iter().map(|name| name.trim_start_matches('!').to_owned());
        names.map(|name| (name, or_template(setting(it.kind))))
    });
    // Not settings, such as KUBERNETES_SERVICE_HOST: their names are upper case.
    let with_others = |mut schema: Value, value: &Value| {
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("patternProperties".to_owned(), json!({ "^[A-Z]": value }));
        }
        schema
    };
    let former = FORMER.iter().map(|name| ((*name).to_owned(), scalar()));
    let mut definitions = definitions();
    definitions.insert("env".to_owned(), with_others(named(variables(setting).chain(former)), &scalar()));
    let env = json!({ "$ref": "#/definitions/env" });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": definitions,
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "global": object(),
            // Of a chart that this one is a dependency of.
            "enabled": switch(),
            "image": image(),
            "imagePullSecrets": list(),
            "config": closed(&json!({ "address": text() })),
            "env": env,
            "envValueFrom": with_others(named(variables(|_| object())), &object()),
            "envFrom": list(),
            "extraArgs": named(flags),
            "separate": closed(&json!({
                "enabled": switch(), "env": env, "affinity": object(), "nodeSelector": texts(), "tolerations": list(),
            })),
            "nameOverride": text(),
            "fullnameOverride": text(),
            "namespaceOverride": text(),
            "serviceAccount": closed(&json!({ "create": switch(), "annotations": texts(), "name": text() })),
            "rbac": closed(&json!({ "create": switch(), "goProgram": switch(), "extraRules": list() })),
            "annotations": texts(),
            "extraLabels": texts(),
            "podAnnotations": texts(),
            "podSecurityContext": object(),
            "securityContext": object(),
            "updateStrategy": object(),
            "resources": object(),
            "volumes": list(),
            "volumeMounts": list(),
            "hostAliases": list(),
            "nodeSelector": texts(),
            "tolerations": list(),
            "affinity": object(),
            "priorityClassName": text(),
            "podMonitor": closed(&json!({ "enabled": switch(), "labels": texts(), "annotations": texts() })),
            "prometheusRule": closed(&json!({ "enabled": switch(), "labels": texts() })),
        },
    })
}
