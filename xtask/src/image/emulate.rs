//! `cargo xtask test arm64`: the programs for another architecture, and the unit tests that need no kernel, by qemu.

use std::process::Command;

use super::target::Architecture;
use crate::sh::{Outcome, have};

/// What both architectures have to print alike.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("kube-vip", &["version"]),
    (
        "kube-vip",
        &["config", "--controlplane", "--arp", "--interface", "lo", "--address", "192.0.2.1,2001:db8::1"],
    ),
    (
        "kube-vip",
        &[
            "manifest",
            "pod",
            "--controlplane",
            "--arp",
            "--address",
            "192.0.2.1",
            "--image",
            "example.com/kube-vip:v0",
        ],
    ),
    ("kube-vip", &["manifest", "rbac", "--services", "--bgp"]),
    ("kube-vip-cloud-provider", &["--help"]),
    ("kube-vip-cloud-provider", &["manifest"]),
];

/// Those of packets, protocols and decisions. qemu lacks what the others ask the kernel for.
const TESTS: [&str; 12] = [
    "test",
    "--locked",
    "-p",
    "kube-vip",
    "-p",
    "kube-vip-cloud-provider",
    "--lib",
    "--test",
    "bgp_codec",
    "--",
    "--skip=net::",
    "--skip=telemetry::",
];

pub(crate) fn run(architecture: Architecture) -> Outcome {
    let here = Architecture::here()?;
    if here == architecture {
        return Err(format!("this machine is {architecture}: `cargo xtask test` runs everything"));
    }
    let missing = (!have(architecture.emulator()))
        .then(|| format!("{} is needed: `cargo xtask setup` installs it", architecture.emulator()));
    if let Some(reason) = missing.or(architecture.unavailable()?) {
        println!("skipped: {reason}");
        return Ok(());
    }
    let (own, other) = (here.build()?, architecture.build()?);
    for (program, args) in COMMANDS {
        let expected = output(Command::new(own.join(program)).args(args))?;
        let mut emulated = Command::new(architecture.emulator());
        let found = output(emulated.arg(other.join(program)).args(args))?;
        if found != expected {
            return Err(format!(
                "`{program} {}` prints for {architecture}:\n{found}\nand for {here}:\n{expected}",
                args.join(" ")
            ));
        }
        println!("`{program} {}`: {} lines, as for {here}", args.join(" "), found.lines().count());
    }
    architecture.cargo(&TESTS)
}

/// What a program prints on its standard output.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.env_clear().output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
