//! Rules on annotations as policies of the API server (manifests/policy/): a Service that breaks one is rejected when it is
//! applied, with the reason, instead of being reported by an Event afterwards. Nodes decide by themselves all the same.
//!
//! Values that an update leaves as they are never count: a policy may be added to a cluster with Services in it.

use serde_json::{Value, json};

use super::super::routes::MAX_PREPEND;
use super::annotations::INFRASTRUCTURE;
use super::limits::{MAX_ADDRESSES, MAX_NAMES};
use crate::manifest::yaml;
use crate::model::annotation::{
    BGP_COMMUNITIES, BGP_LARGE_COMMUNITIES, BGP_LOCAL_PREF, BGP_MED, BGP_PREPEND, DDNS, DHCP_BROADCAST,
    FORCE_ELECTION, FORWARD_UPNP, HOSTNAME, IGNORE, LOAD_BALANCER_IPS, MDNS, REQUESTED_IP, RP_FILTER,
    SERVICE_ANNOTATIONS, UPNP_EXTERNAL_PORT, UPNP_LEASE_DURATION, WITHOUT_ENDPOINTS,
};
use crate::model::validation::DHCP_WORDS;

/// Groups that may write every annotation: administrators, static pods with admin.conf, and the service accounts of both
/// programs.
const GROUPS: [&str; 3] = ["system:masters", "kubeadm:cluster-admins", "system:serviceaccounts:kube-system"];
/// The default of `svc_infrastructure_namespaces`.
const NAMESPACES: [&str; 1] = ["kube-system"];
/// Prefix of every annotation.
const PREFIX: &str = "kube-vip.io/";

/// The files in manifests/policy/: names and texts.
///
/// # Errors
/// If one cannot be serialized.
pub fn files() -> Result<Vec<(&'static str, String)>, String> {
    let for_administrators = "Rejects annotations about infrastructure, and those that only controllers write, unless an administrator\n\
        # sets them. To exempt a group, add it to the condition `not-exempt`; to exempt a namespace, to the binding.";
    let syntax_errors = "Rejects annotations that kube-vip cannot read.";
    Ok(vec![
        ("infrastructure.yaml", file(for_administrators, infrastructure())?),
        ("syntax.yaml", file(syntax_errors, syntax())?),
    ])
}

fn file(about: &str, documents: [Value; 2]) -> Result<String, String> {
    let text = yaml(&documents).map_err(|error| error.to_string())?;
    Ok(format!("# {about}\n# For Kubernetes 1.31 or later. Written by `cargo xtask manifests`.\n{text}"))
}

/// Annotations that authors of Services never write.
fn of_controllers() -> Vec<&'static str> {
    SERVICE_ANNOTATIONS.iter().filter(|entry| !entry.used.contains("user")).map(|entry| entry.name).collect()
}

fn infrastructure() -> [Value; 2] {
    let controllers = of_controllers();
    let all = list(INFRASTRUCTURE.into_iter().chain(controllers.iter().copied()));
    let rule = |variable, names: String, allowed: &str| Rule {
        variable,
        wrong: format!("variables.changed.filter(name, name in {names})"),
        allowed: allowed.to_owned(),
    };
    let rules = [
        rule(
            "infrastructure",
            list(INFRASTRUCTURE),
            "only administrators choose interfaces, hardware addresses and Leases",
        ),
        rule("controllers", list(controllers), "only controllers write this"),
    ];
    let conditions = json!([
        condition(
            "annotated",
            &format!(
                "has(object.metadata.annotations) && object.metadata.annotations.exists(name, name in {all})"
            ),
        ),
        condition(
            "not-exempt",
            &format!("!request.userInfo.groups.exists(group, group in {})", list(GROUPS)),
        ),
    ]);
    let namespaces = json!({ "matchExpressions": [
        { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": NAMESPACES },
    ] });
    policy(
        "kube-vip-infrastructure",
        "Forbidden",
        &conditions,
        &rules,
        json!({ "namespaceSelector": namespaces }),
    )
}

fn syntax() -> [Value; 2] {
    let conditions = json!([condition(
        "annotated",
        &format!(
            "has(object.metadata.annotations) && object.metadata.annotations.exists(name, name.startsWith('{PREFIX}'))"
        ),
    )]);
    policy("kube-vip-syntax", "Invalid", &conditions, &rules(), json!({}))
}

/// A rule, as a variable with the names of the changed annotations that break it.
struct Rule {
    variable: &'static str,
    wrong: String,
    /// What is allowed, for the message.
    allowed: String,
}

/// A rule for these annotations. `fits` is about `value`, the trimmed text; an empty one counts as absent.
fn text(variable: &'static str, names: &[&str], fits: &str, allowed: String) -> Rule {
    let wrong = format!(
        "variables.changed.filter(name, name in {} &&\n  \
         ![variables.annotations[name].trim()].exists(value, value == '' ||\n    {fits}))",
        list(names.iter().copied())
    );
    Rule { variable, wrong, allowed }
}

/// The same about `items`, the parts between commas.
fn items(variable: &'static str, name: &str, fits: &str, allowed: String) -> Rule {
    let fits = format!(
        "[value.split(',').map(item, item.trim()).filter(item, item != '')].exists(items,\n      {fits})"
    );
    text(variable, &[name], &fits, allowed)
}

fn number(variable: &'static str, name: &str, most: u32) -> Rule {
    let fits = format!("value.matches('^[+]?[0-9]{{1,10}}$') && int(value) <= {most}");
    text(variable, &[name], &fits, format!("a number from 0 to {most}"))
}

/// A label of a DNS name, see [`is_name`](crate::model::validation::is_name).
const LABEL: &str = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";

/// Whether a text is a DNS name and not a mistyped address.
fn is_name(text: &str) -> String {
    format!(
        "{text}.size() <= 254 && {text}.matches('^({LABEL}([.]|$))+$') && !{text}.matches('(^|[.])[0-9]+[.]?$')"
    )
}

/// What the program reports as [`Issue::Annotation`](crate::planner::plan::Issue::Annotation), or reads as `false` silently.
fn rules() -> Vec<Rule> {
    let (name, boolean) = (is_name("item"), "\"true\" or \"false\"");
    let dhcp = list(DHCP_WORDS);
    let duration = "([0-9]+([.][0-9]*)?|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h)";
    let port =
        "part.trim().matches('^[+]?[0-9]{1,5}$') && int(part.trim()) >= 1 && int(part.trim()) <= 65535";
    let mut rules = vec![
        items(
            "addresses",
            LOAD_BALANCER_IPS,
            &format!(
                "items.size() <= {MAX_ADDRESSES} && items.filter(item, !isIP(item)).size() <= {MAX_NAMES} &&\n      \
                 items.all(item, isIP(item) || ({name} && !(item.lowerAscii() in {dhcp})))"
            ),
            format!(
                "IP addresses (0.0.0.0 and :: for DHCP) and DNS names, separated by commas: at most {MAX_ADDRESSES}, \
                 {MAX_NAMES} of them names"
            ),
        ),
        items(
            "requested",
            REQUESTED_IP,
            "items.all(item, isIP(item)) && items.filter(item, item.contains(':')).size() <= 1 &&\n      \
             items.filter(item, !item.contains(':')).size() <= 1",
            "at most one IPv4 and one IPv6 address".to_owned(),
        ),
        text(
            "switches",
            &[IGNORE, FORCE_ELECTION, DHCP_BROADCAST, FORWARD_UPNP],
            "value in ['true', 'false']",
            boolean.to_owned(),
        ),
        text(
            "switches_in_any_case",
            &[WITHOUT_ENDPOINTS],
            "value.lowerAscii() in ['true', 'false']",
            boolean.to_owned(),
        ),
        text(
            "booleans",
            &[DDNS],
            "value.matches('^([01tTfF]|true|True|TRUE|false|False|FALSE)$')",
            boolean.to_owned(),
        ),
        number("rp_filter", RP_FILTER, 2),
        text("host_names", &[HOSTNAME], &is_name("value"), "a host name".to_owned()),
        text(
            "mdns_names",
            &[MDNS],
            &format!("value.matches('^{LABEL}([.]local)?[.]?$') && !value.matches('^[0-9]+([.]|$)')"),
            "a name such as web or web.local".to_owned(),
        ),
        text(
            "durations",
            &[UPNP_LEASE_DURATION],
            &format!("value.matches('^(0|[+]?({duration})+)$')"),
            "a duration such as 30m, or 0".to_owned(),
        ),
        items(
            "ports",
            UPNP_EXTERNAL_PORT,
            &format!(
                "items.all(item, item.split('=').size() <= 2 && item.split('=').all(part,\n        {port}))"
            ),
            "PORT=EXTERNAL PORT for ports of the Service, separated by commas, or one number".to_owned(),
        ),
    ];
    rules.extend(of_routes());
    rules
}

/// Attributes of routes, as `planner/routes` reads them.
fn of_routes() -> [Rule; 5] {
    let part = "item.split(':').all(part, int(part) <=";
    let well_known = list(["no-export", "no-advertise", "no-export-subconfed", "graceful-shutdown"]);
    [
        number("local_preference", BGP_LOCAL_PREF, u32::MAX),
        number("med", BGP_MED, u32::MAX),
        number("prepend", BGP_PREPEND, MAX_PREPEND.into()),
        items(
            "communities",
            BGP_COMMUNITIES,
            &format!(
                "items.all(item, item.lowerAscii() in {well_known} ||\n        \
                 item.matches('^[0-9]{{1,10}}$') && int(item) <= {} ||\n        \
                 item.matches('^[0-9]{{1,5}}:[0-9]{{1,5}}$') && {part} {}))",
                u32::MAX,
                u16::MAX
            ),
            "communities such as 65000:100 or no-export, separated by commas".to_owned(),
        ),
        items(
            "large_communities",
            BGP_LARGE_COMMUNITIES,
            &format!(
                "items.all(item, item.matches('^[0-9]{{1,10}}(:[0-9]{{1,10}}){{2}}$') && {part} {}))",
                u32::MAX
            ),
            "large communities such as 65000:1:2, separated by commas".to_owned(),
        ),
    ]
}

/// A policy that rejects Services that break one of the rules, and its binding to the `selected` ones.
fn policy(name: &str, reason: &str, conditions: &Value, rules: &[Rule], selected: Value) -> [Value; 2] {
    let variable = |name: &str, expression: &str| json!({ "name": name, "expression": expression });
    let common = [
        variable("annotations", "object.metadata.annotations"),
        variable(
            "before",
            "request.operation == 'UPDATE' && has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}",
        ),
        variable(
            "changed",
            &format!(
                "variables.annotations.filter(name, name.startsWith('{PREFIX}') &&\n  \
                 !(name in variables.before && variables.before[name] == variables.annotations[name]))"
            ),
        ),
    ];
    let variables = common.into_iter().chain(rules.iter().map(|rule| variable(rule.variable, &rule.wrong)));
    let validation = |Rule { variable, allowed, .. }: &Rule| {
        json!({
            "expression": format!("variables.{variable}.size() == 0"),
            "message": allowed,
            "messageExpression": format!("variables.{variable}.join(', ') + ': {allowed}'"),
            "reason": reason,
        })
    };
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name },
        "spec": {
            "failurePolicy": "Fail",
            "matchConditions": conditions,
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["services"],
            }] },
            "validations": rules.iter().map(validation).collect::<Vec<_>>(),
            "variables": variables.collect::<Vec<_>>(),
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": { "matchResources": selected, "policyName": name, "validationActions": ["Deny"] },
    });
    [policy, binding]
}

fn condition(name: &str, expression: &str) -> Value {
    json!({ "name": name, "expression": expression })
}

/// A list of texts in CEL.
fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(|text| format!("'{text}'")).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::annotation::{EGRESS, SHARING_KEY};

    /// Any text is valid.
    const FREE: [&str; 2] = [SHARING_KEY, EGRESS];

    #[test]
    fn every_annotation_has_a_rule() {
        let rules = rules();
        for entry in SERVICE_ANNOTATIONS {
            let quoted = format!("'{}'", entry.name);
            let checked = rules.iter().filter(|rule| rule.wrong.contains(&quoted)).count();
            let excepted = FREE.contains(&entry.name) || of_controllers().contains(&entry.name);
            let infrastructure = INFRASTRUCTURE.contains(&entry.name);
            assert!(entry.name.starts_with(PREFIX));
            assert!(checked == 1 || excepted || infrastructure, "{}: {checked}", entry.name);
            assert!(checked == 0 || !excepted, "{}", entry.name);
        }
    }

    #[test]
    fn controllers_annotations_are_those_that_no_user_writes() {
        let names: Vec<&str> =
            of_controllers().into_iter().filter_map(|name| name.strip_prefix(PREFIX)).collect();
        assert_eq!(names, ["allocated-addresses", "vipHost", "dhcp-lease", "upnp-external-ip", "mdns-name"]);
    }

    #[test]
    fn messages_need_no_escapes_in_cel() {
        for rule in rules() {
            assert!(!rule.allowed.contains(['\'', '\\', '\n']), "{}", rule.allowed);
        }
    }
}
