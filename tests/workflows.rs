//! The workflows of .github, by actionlint.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::process::Command;

#[test]
fn actionlint_finds_no_fault() {
    let program = kube_vip_lab::binaries::find("actionlint").unwrap();
    let output = Command::new(program).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}
