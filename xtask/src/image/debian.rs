//! A root file system of Debian unstable with Rust's standard library for other architectures, where rustup has none for them.
//!
//! Its compiler, standard library and C compiler are of one version, and its packages need no other source. The project and
//! cargo's folder are mounted at their own paths, in a mount namespace that ends with the build.

use std::path::{Path, PathBuf};

use kube_vip_lab::binaries;

use super::target::Architecture;
use crate::sh::{Outcome, have, root, run};

/// Debian's suite: the stable one has no compiler that is new enough.
const SUITE: &str = "sid";

/// Whether the root file system can be made here.
pub(super) fn is_available() -> bool {
    nix::unistd::geteuid().is_root() && have("debootstrap")
}

/// Runs cargo for an architecture.
pub(super) fn cargo(architecture: Architecture, cargo: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let folder = binaries::cache().with_file_name("debian");
    prepare(&folder, architecture)?;
    // The crates: the root file system needs no network.
    run("cargo", &["fetch", "--locked"], &[])?;
    let home = cargo_home();
    // Paths are arguments, whatever they contain.
    const SCRIPT: &str = "root=$1; shift; mount --make-rprivate /; \
        for path in \"$1\" \"$2\"; do mkdir -p \"$root$path\"; mount --rbind \"$path\" \"$root$path\"; done; shift 2; \
        if emulator=$(command -v \"$1\"); then touch \"$root/usr/bin/$1\"; mount --bind \"$emulator\" \"$root/usr/bin/$1\"; fi; shift; \
        mount -t proc proc \"$root/proc\"; exec chroot \"$root\" env -i \"$@\"";
    let [place, here, home] = [&folder, &root(), &home].map(|path| path.to_string_lossy().into_owned());
    let variables = environment.iter().copied().chain([
        ("CARGO_HOME", home.as_str()),
        ("CARGO_NET_OFFLINE", "true"),
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/root"),
    ]);
    let variables: Vec<String> = variables.map(|(name, value)| format!("{name}={value}")).collect();
    let mut args = vec![
        "--mount",
        "sh",
        "-ec",
        SCRIPT,
        "sh",
        &place,
        &here,
        &home,
        architecture.emulator(),
        "-C",
        &here,
    ];
    args.extend(variables.iter().map(String::as_str));
    args.push("cargo");
    args.extend(cargo);
    run("unshare", &args, &[])
}

/// Debian with the compilers for an architecture, once.
fn prepare(folder: &Path, architecture: Architecture) -> Outcome {
    let stamp = folder.join(format!("{architecture}.stamp"));
    if stamp.is_file() {
        return Ok(());
    }
    let place = folder.to_string_lossy();
    if !folder.join("debian.stamp").is_file() {
        println!("making {place} with Debian {SUITE}; this takes minutes");
        std::fs::remove_dir_all(folder).ok();
        run("debootstrap", &["--variant=minbase", SUITE, &place], &[])?;
        write(&folder.join("debian.stamp"))?;
    }
    let name = architecture.name();
    let [compiler, library] = architecture.packages();
    let script = format!(
        "dpkg --add-architecture {name}; apt-get update -qq; \
         apt-get install -y -qq --no-install-recommends cargo rustc gcc libc6-dev libstd-rust-dev:{name} {compiler} {library}"
    );
    run("chroot", &[&place, "sh", "-ec", &script], &[("DEBIAN_FRONTEND", "noninteractive")])?;
    write(&stamp)
}

fn write(stamp: &Path) -> Outcome {
    std::fs::write(stamp, "").map_err(|error| format!("{}: {error}", stamp.display()))
}

fn cargo_home() -> PathBuf {
    let given = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    given.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"))
}
