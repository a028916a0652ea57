//! Kubeconfigs on the disk: the one of an administrator, and the one of this program.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::ByteString;
use kube::config::{AuthInfo, Cluster, Kubeconfig};
use serde_json::{Value, json};

use super::document::is_of;
use super::{Identity, KubeconfigError};
use crate::cluster::certificate::ClientCertificate;
use crate::cluster::source::client_certificate;

/// Root alone may read the key.
const MODE: u32 = 0o600;

/// What a kubeconfig of an administrator contributes.
pub(super) struct Administrator {
    /// The cluster of its context, with the CA as data.
    pub cluster: Value,
    /// None where it has a token.
    pub certificate: Option<ClientCertificate>,
}

pub(super) fn read(path: &str) -> Result<Administrator, KubeconfigError> {
    let unusable = |why: String| KubeconfigError::Unusable { path: path.to_owned(), why };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(error.to_string()))?;
    let (cluster, user) =
        current(&kubeconfig).ok_or_else(|| unusable("its current context has no cluster".into()))?;
    let mut cluster = cluster.clone();
    if let (None, Some(file)) = (&cluster.certificate_authority_data, cluster.certificate_authority.take()) {
        let ca = std::fs::read(&file).map_err(|error| unusable(format!("{file}: {error}")))?;
        cluster.certificate_authority_data = json!(ByteString(ca)).as_str().map(str::to_owned);
    }
    let cluster = serde_json::to_value(&cluster).map_err(|error| unusable(error.to_string()))?;
    Ok(Administrator { cluster, certificate: user.and_then(certificate) })
}

/// The cluster and the user of the current context.
fn current(kubeconfig: &Kubeconfig) -> Option<(&Cluster, Option<&AuthInfo>)> {
    let name = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|named| named.name == *name)?.context.as_ref()?;
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster)?.cluster.as_ref()?;
    let user = kubeconfig.auth_infos.iter().find(|named| Some(&named.name) == context.user.as_ref());
    Some((cluster, user.and_then(|named| named.auth_info.as_ref())))
}

fn certificate(user: &AuthInfo) -> Option<ClientCertificate> {
    ClientCertificate::read(&client_certificate(user)?).ok()
}

/// Checks before anything is requested that the file may be written: it does not exist in a folder that does, or has an earlier
/// certificate of the same user.
///
/// # Errors
/// If it is another file, or has no folder.
pub fn check(path: &str, identity: &Identity) -> Result<(), KubeconfigError> {
    let folder = if path.ends_with('/') { Some(Path::new(path)) } else { Path::new(path).parent() };
    if folder.is_some_and(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return Err(KubeconfigError::NoFolder { path: path.to_owned() });
    }
    let own = || {
        let kubeconfig = Kubeconfig::read_from(path).ok()?;
        Some(is_of(&certificate(current(&kubeconfig)?.1?)?, identity))
    };
    match Path::new(path).exists() && own() != Some(true) {
        true => Err(KubeconfigError::Exists { path: path.to_owned(), identity: identity.clone() }),
        false => Ok(()),
    }
}

/// Writes a new file at once. An existing one stays the same inode: it is mounted into a pod, which would keep the replaced
/// one. A reader of a half-written file keeps its former credentials, and reads again.
///
/// # Errors
/// If the file cannot be written. A new one does not exist then.
pub fn write(path: &str, text: &str) -> Result<(), KubeconfigError> {
    let written = if Path::new(path).exists() { overwrite(path, text) } else { create(path, text) };
    written.map_err(|why| KubeconfigError::Write { path: path.to_owned(), why })
}

fn create(path: &str, text: &str) -> std::io::Result<()> {
    let new = format!("{path}.{}", std::process::id());
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        std::fs::remove_file(&new).ok();
    }
    written
}

fn overwrite(path: &str, text: &str) -> std::io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;
    use crate::kubeconfig::document::kubeconfig;

    fn identity(node: &str) -> Identity {
        Identity { node: node.into(), group: "kube-vip:nodes".into() }
    }

    /// The kubeconfig of a node, with a CA of this length in it.
    fn text(node: &str, ca: usize) -> String {
        let identity = identity(node);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.user());
        params.distinguished_name.push(DnType::OrganizationName, &identity.group);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let cluster =
            json!({ "server": "https://192.0.2.1:6443", "certificate-authority-data": "QUFB".repeat(ca) });
        kubeconfig(&cluster, &identity, &certificate, &key.serialize_pem()).unwrap()
    }

    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("kube-vip-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_is_new_or_the_renewal_of_the_same_user_in_the_same_inode() {
        let folder = folder("file");
        let path = folder.join("kube-vip.conf").to_string_lossy().into_owned();
        let (me, other) = (identity("node-1"), identity("node-2"));
        check(&path, &me).unwrap();
        write(&path, &text("node-1", 300)).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        assert_eq!(before.mode() & 0o777, MODE);
        assert!(check(&path, &me).is_ok() && check(&path, &other).is_err());
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        // Shorter than before: nothing of the former content stays.
        let renewed = text("node-1", 1);
        write(&path, &renewed).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((after.ino(), after.mode() & 0o777), (before.ino(), MODE));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), renewed);
        std::fs::write(&path, "not a kubeconfig").unwrap();
        let error = check(&path, &me).unwrap_err().to_string();
        assert!(
            error.contains("is not the kubeconfig of user kube-vip:node-1 of group kube-vip:nodes"),
            "{error}"
        );
        // Nothing is left beside it, also where it cannot be written.
        assert!(write(&folder.to_string_lossy(), "x").is_err());
        for elsewhere in ["none/kube-vip.conf", "none/"] {
            let elsewhere = folder.join(elsewhere).to_string_lossy().into_owned();
            assert!(check(&elsewhere, &me).unwrap_err().to_string().contains("its folder does not exist"));
            assert!(write(&elsewhere, "x").is_err());
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_cluster_of_the_current_context_has_its_ca_as_data() {
        let folder = folder("read");
        std::fs::write(folder.join("ca.crt"), "CA").unwrap();
        let path = folder.join("admin.conf").to_string_lossy().into_owned();
        let clusters = json!([
            { "name": "a", "cluster": { "server": "https://a" } },
            { "name": "b", "cluster": { "server": "https://b", "certificate-authority": "ca.crt", "tls-server-name": "t" } },
        ]);
        let config = |current: &str| {
            let contexts = json!([{ "name": "x", "context": { "cluster": "b", "user": "u" } }]);
            let config = json!({ "clusters": clusters, "contexts": contexts, "current-context": current });
            std::fs::write(&path, config.to_string()).unwrap();
            read(&path)
        };
        let expected =
            json!({ "server": "https://b", "certificate-authority-data": "Q0E=", "tls-server-name": "t" });
        assert_eq!(config("x").unwrap().cluster, expected);
        assert!(
            config("y").is_err_and(|error| error.to_string().contains("its current context has no cluster"))
        );
        std::fs::remove_file(folder.join("ca.crt")).unwrap();
        assert!(config("x").is_err_and(|error| error.to_string().contains("ca.crt: No such file")));
        std::fs::remove_file(&path).unwrap();
        assert!(
            read(&path).is_err_and(|error| error.to_string().contains("run this on a control-plane node"))
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
