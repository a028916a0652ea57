//! The systemd unit in examples/systemd, by systemd's own checks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use std::process::Command;

use kube_vip::config::{Raw, Sources, check};

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/examples/systemd/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_unit_is_valid_and_confined() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: no systemd-analyze");
        return;
    }
    let folder = std::env::temp_dir().join(format!("kube-vip-unit-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("kube-vip.service");
    // The program has to exist.
    let unit = file("kube-vip.service").replace("/usr/local/bin/kube-vip", env!("CARGO_BIN_EXE_kube-vip"));
    std::fs::write(&path, unit).unwrap();
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).arg(&path).output().unwrap();
    let output = analyze(&["verify", "--man=no"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Exposure in tenths, of a hundred.
    let output = analyze(&["security", "--offline=true", "--threshold=35"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn its_settings_are_valid() {
    let text = file("kube-vip.env");
    let variables =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_once('=').unwrap());
    let env = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let (raw, problems, notes) = Raw::collect(&Sources { env, ..Sources::default() });
    assert_eq!((problems, notes), (Vec::new(), Vec::new()));
    assert_eq!(check(raw, None).unwrap().notes, [""; 0]);
}
