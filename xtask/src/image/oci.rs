//! OCI images (image-spec v1.1) of one layer. The same input gives the same bytes.

use std::collections::BTreeMap;

use flate2::Compression;
use serde::Serialize;
use serde_json::{Value, json};

use crate::pack;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'a> {
    /// Programs, by their paths without the leading slash.
    pub(crate) files: &'a BTreeMap<String, Vec<u8>>,
    /// Files that cannot be executed, in the same way.
    pub(crate) texts: &'a BTreeMap<String, Vec<u8>>,
    /// In Go's words.
    pub(crate) architecture: &'a str,
    /// The `config` of the image: entrypoint, user, and so on.
    pub(crate) config: &'a Value,
    pub(crate) labels: &'a Value,
    /// RFC 3339.
    pub(crate) created: &'a str,
    pub(crate) compression: Compression,
}

/// Refers to a file of a layout.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: &'static str,
    pub(crate) digest: String,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Value>,
}

/// Files of a layout by digest.
#[derive(Debug, Default)]
pub(crate) struct Blobs(BTreeMap<String, Vec<u8>>);

/// A manifest, and what an archive for docker needs of it.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) descriptor: Descriptor,
    config: String,
    layer: String,
}

impl Blobs {
    fn add(&mut self, media_type: &'static str, bytes: Vec<u8>) -> Descriptor {
        let (digest, size) = (sha256(&bytes), bytes.len());
        self.0.insert(digest.clone(), bytes);
        Descriptor { media_type, digest, size, platform: None, annotations: None }
    }

    pub(crate) fn add_image(&mut self, content: &Content<'_>) -> std::io::Result<Manifest> {
        let files = content.files.iter().map(|(path, bytes)| (path.as_str(), 0o755, bytes.as_slice()));
        let texts = content.texts.iter().map(|(path, bytes)| (path.as_str(), 0o644, bytes.as_slice()));
        let layer = pack::tar(files.chain(texts))?;
        let diff_id = sha256(&layer);
        let layer = pack::gzip(&layer, content.compression)?;
        let layer = self.add("application/vnd.oci.image.layer.v1.tar+gzip", layer);
        let config = self.add("application/vnd.oci.image.config.v1+json", config(content, &diff_id));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
            "annotations": content.labels,
        });
        let descriptor = self.add("application/vnd.oci.image.manifest.v1+json", text(&manifest));
        let platform = Some(json!({ "architecture": content.architecture, "os": "linux" }));
        let descriptor = Descriptor { platform, ..descriptor };
        Ok(Manifest { descriptor, config: config.digest, layer: layer.digest })
    }

    /// An index of one image for several architectures.
    pub(crate) fn add_index(&mut self, manifests: &[&Manifest], labels: &Value) -> Descriptor {
        let manifests: Vec<&Descriptor> = manifests.iter().map(|manifest| &manifest.descriptor).collect();
        self.add(INDEX, index(&manifests, Some(labels)))
    }

    /// The files of a layout whose only image is this one, by path, in order.
    pub(crate) fn layout(&self, image: &Descriptor, reference: &str) -> BTreeMap<String, Vec<u8>> {
        let tag = reference.rsplit_once(':').map_or("", |(_, tag)| tag);
        let names =
            json!({ "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag });
        let image = Descriptor { annotations: Some(names), ..image.clone() };
        let blobs = self.0.iter().map(|(digest, bytes)| (blob(digest), bytes.clone()));
        let fixed = [
            ("oci-layout".to_owned(), text(&json!({ "imageLayoutVersion": "1.0.0" }))),
            ("index.json".to_owned(), index(&[&image], None)),
        ];
        blobs.chain(fixed).collect()
    }
}

impl Manifest {
    /// The file by which `docker load` finds the parts of an archive.
    pub(crate) fn for_docker(&self, reference: &str) -> (String, Vec<u8>) {
        let parts = json!([
            { "Config": blob(&self.config), "RepoTags": [reference], "Layers": [blob(&self.layer)] },
        ]);
        ("manifest.json".to_owned(), text(&parts))
    }
}

fn config(content: &Content<'_>, diff_id: &str) -> Vec<u8> {
    let Content { architecture, config, created, .. } = content;
    text(&json!({
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": created, "created_by": "cargo xtask image" }],
    }))
}

fn index(manifests: &[&Descriptor], labels: Option<&Value>) -> Vec<u8> {
    let mut index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    if let (Some(labels), Some(index)) = (labels, index.as_object_mut()) {
        index.insert("annotations".to_owned(), labels.clone());
    }
    text(&index)
}

/// The path of a blob.
fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// As a digest of the specification.
fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", pack::sha256(bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn content<'a>(
        [files, texts]: &'a [BTreeMap<String, Vec<u8>>; 2],
        config: &'a Value,
        labels: &'a Value,
    ) -> Content<'a> {
        let (created, compression) = ("2026-01-02T03:04:05Z", Compression::best());
        Content { files, texts, architecture: "arm64", config, labels, created, compression }
    }

    fn files() -> [BTreeMap<String, Vec<u8>>; 2] {
        [("kube-vip", "a program"), ("licenses/LICENSE", "a text")]
            .map(|(path, text)| [(path.to_owned(), text.as_bytes().to_vec())].into())
    }

    /// Follows the digests from the entry file to the program, as a runtime does.
    #[test]
    fn an_image_leads_to_its_file_and_is_the_same_each_time() {
        let labels = json!({ "org.opencontainers.image.version": "v9" });
        let config = json!({ "Entrypoint": ["/kube-vip"] });
        let build = || {
            let mut blobs = Blobs::default();
            let manifest = blobs.add_image(&content(&files(), &config, &labels)).unwrap();
            let index = blobs.add_index(&[&manifest], &labels);
            blobs.layout(&index, "localhost/kube-vip:v9")
        };
        let files = build();
        assert_eq!(files, build());
        let read = |descriptor: &Value| {
            let bytes = &files[&blob(descriptor["digest"].as_str().unwrap())];
            assert_eq!(sha256(bytes), descriptor["digest"]);
            assert_eq!(json!(bytes.len()), descriptor["size"]);
            bytes.clone()
        };
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let entry = parse(&files["index.json"]);
        assert_eq!(entry["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/kube-vip:v9");
        let index = parse(&read(&entry["manifests"][0]));
        assert_eq!(index["manifests"][0]["platform"], json!({ "architecture": "arm64", "os": "linux" }));
        let manifest = parse(&read(&index["manifests"][0]));
        let config = parse(&read(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/kube-vip"]));
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&read(&manifest["layers"][0])[..]).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([sha256(&layer)]));
        let mut archive = tar::Archive::new(&layer[..]);
        let mut entries = archive.entries().unwrap();
        for (path, mode, content) in [("kube-vip", 0o755, "a program"), ("licenses/LICENSE", 0o644, "a text")]
        {
            let mut file = entries.next().unwrap().unwrap();
            assert_eq!((file.path().unwrap().to_str(), file.header().mode().unwrap()), (Some(path), mode));
            let mut found = String::new();
            file.read_to_string(&mut found).unwrap();
            assert_eq!(found, content);
        }
        assert!(entries.next().is_none());
    }

    #[test]
    fn an_archive_names_its_parts_for_docker() {
        let labels = json!({});
        let mut blobs = Blobs::default();
        let manifest = blobs.add_image(&content(&files(), &json!({}), &labels)).unwrap();
        let mut files = blobs.layout(&manifest.descriptor, "localhost/kube-vip:v9");
        files.extend([manifest.for_docker("localhost/kube-vip:v9")]);
        let parts: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(parts[0]["RepoTags"], json!(["localhost/kube-vip:v9"]));
        for path in [&parts[0]["Config"], &parts[0]["Layers"][0]] {
            assert!(files.contains_key(path.as_str().unwrap()), "{path}");
        }
        let bytes = pack::tar_of_files(&files).unwrap();
        let mut read = tar::Archive::new(&bytes[..]);
        assert_eq!(read.entries().unwrap().count(), files.len());
    }
}
