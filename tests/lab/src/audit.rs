//! Audit logs of API servers: the requests of programs under test.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::rights::Request;

/// The user of each agent and each provider. Their groups differ, and with them their rights.
pub(crate) const USER: &str = "kube-vip";

/// Requests of [`USER`], each when its response is complete; a watch when it begins, too, as it may never end.
pub(crate) fn policy() -> String {
    let policy = serde_json::json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{ "level": "Metadata", "users": [USER], "omitManagedFields": true }],
    });
    policy.to_string()
}

/// The log of one API server, over all its processes.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    /// How many bytes have been read.
    read: Mutex<u64>,
}

/// What a log has of a request.
pub(crate) struct AuditEvent {
    pub(crate) groups: Vec<String>,
    pub(crate) request: Request,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    object_ref: Option<ObjectReference>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    groups: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ObjectReference {
    resource: String,
    subresource: String,
    api_group: String,
    namespace: String,
    name: String,
}

impl AuditLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::new(0) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The complete lines since the last call. There is no file before the API server has started.
    pub(crate) fn read(&self) -> Vec<AuditEvent> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let more = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(*read))?;
            file.read_to_string(&mut text)
        });
        let complete = text.rfind('\n').filter(|_| more.is_ok()).map_or(0, |end| end + 1);
        *read += complete as u64;
        text.get(..complete).unwrap_or_default().lines().filter_map(event).collect()
    }
}

/// Requests without a resource (such as /version) are permitted to all users.
fn event(line: &str) -> Option<AuditEvent> {
    let Event { verb, user, object_ref } = serde_json::from_str(line).ok()?;
    let object = object_ref?;
    let resource = match object.subresource.as_str() {
        "" => object.resource,
        subresource => format!("{}/{subresource}", object.resource),
    };
    let ObjectReference { api_group: group, namespace, name, .. } = object;
    Some(AuditEvent { groups: user.groups, request: Request { verb, group, resource, namespace, name } })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/default/services/web/status","verb":"patch","user":{"username":"kube-vip","groups":["agents","system:authenticated"]},"objectRef":{"resource":"services","namespace":"default","name":"web","apiVersion":"v1","subresource":"status"},"responseStatus":{"metadata":{},"code":200}}"#;
    const WITHOUT_OBJECT: &str =
        r#"{"stage":"ResponseComplete","requestURI":"/version","verb":"get","user":{"username":"kube-vip"}}"#;

    #[test]
    fn each_complete_line_with_an_object_is_read_once() {
        let path = std::env::temp_dir().join(format!("kvlab-audit-{}.log", std::process::id()));
        let log = AuditLog::new(path.clone());
        let read = || {
            let requests =
                log.read().into_iter().map(|event| format!("{} by {}", event.request, event.groups[0]));
            requests.collect::<Vec<_>>()
        };
        let one = ["patch services/status `default/web` by agents".to_owned()];
        assert_eq!(read(), [""; 0]);
        let (half, rest) = LINE.split_at(100);
        std::fs::write(&path, format!("{LINE}\n{WITHOUT_OBJECT}\n{half}")).unwrap();
        assert_eq!(read(), one);
        assert_eq!(read(), [""; 0]);
        std::fs::write(&path, format!("{LINE}\n{WITHOUT_OBJECT}\n{half}{rest}\n")).unwrap();
        assert_eq!(read(), one);
        std::fs::remove_file(&path).unwrap();
    }
}
