//! Archives and digests. The same input gives the same bytes.

use std::collections::BTreeMap;
use std::io::{Result, Write};

use flate2::{Compression, GzBuilder};
use ring::digest::{SHA256, digest};

/// A tar archive of files: path, mode and content.
pub(crate) fn tar<'a>(files: impl IntoIterator<Item = (&'a str, u32, &'a [u8])>) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        // Of root, and of the beginning of time.
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes)?;
    }
    archive.into_inner()
}

/// A tar archive of files that cannot be executed, by path.
pub(crate) fn tar_of_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    tar(files.iter().map(|(path, bytes)| (path.as_str(), 0o644, bytes.as_slice())))
}

/// Without a name or time.
pub(crate) fn gzip(bytes: &[u8], compression: Compression) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), compression);
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// In hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
