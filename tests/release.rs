//! The release build: one static file, small, that runs from an empty root file system.
//!
//! Ignored by default, since it needs that build; `cargo xtask test` makes it and runs these.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::path::PathBuf;
use std::process::Command;

fn program(name: &str) -> PathBuf {
    let target = PathBuf::from(env!("CARGO_BIN_EXE_kube-vip"));
    // From …/debug/kube-vip to …/release/kube-vip.
    target.parent().unwrap().parent().unwrap().join("release").join(name)
}

#[test]
#[ignore = "needs a release build"]
fn they_are_static_stripped_and_small() {
    for name in ["kube-vip", "kube-vip-cloud-provider"] {
        let elf = std::fs::read(program(name)).unwrap();
        println!("{name}: {:.1} MB", elf.len() as f64 / 1e6);
        assert!(elf.len() <= 17_000_000, "{name}: {} bytes", elf.len());
        assert!(!entries(&elf, 32, 54).contains(&INTERPRETER), "{name} asks for an interpreter");
        // Section headers begin with an offset into the names; the type comes after it.
        assert!(!entries(&elf, 40, 58).contains(&SYMBOL_TABLE), "{name} is not stripped");
    }
}

/// `PT_INTERP`.
const INTERPRETER: u32 = 3;
/// `SHT_SYMTAB`.
const SYMBOL_TABLE: u32 = 2;

/// The types of the entries of a table of a 64-bit ELF file, whose place stands at `place`, and whose entry size
/// and count at `size`.
fn entries(elf: &[u8], place: usize, size: usize) -> Vec<u32> {
    let word = |at: usize| usize::from(u16::from_le_bytes([elf[at], elf[at + 1]]));
    let table = u64::from_le_bytes(elf[place..place + 8].try_into().unwrap());
    let table = usize::try_from(table).unwrap();
    let kind_at = if place == 40 { 4 } else { 0 };
    let kind = |index: usize| {
        let at = table + index * word(size) + kind_at;
        u32::from_le_bytes(elf[at..at + 4].try_into().unwrap())
    };
    (0..word(size + 2)).map(kind).collect()
}

#[test]
#[ignore = "needs a release build"]
fn it_runs_from_an_empty_root_file_system_and_knows_names() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root may change the root");
        return;
    }
    let root = std::env::temp_dir().join(format!("kube-vip-root-{}", std::process::id()));
    std::fs::create_dir_all(root.join("etc")).unwrap();
    for name in ["kube-vip", "kube-vip-cloud-provider"] {
        // By a process of its own, as a child of another test must not inherit the file while it is open for writing.
        assert!(Command::new("cp").arg(program(name)).arg(root.join(name)).status().unwrap().success());
    }
    std::fs::write(root.join("etc/hosts"), "192.0.2.44 vip.test\n").unwrap();
    std::fs::write(root.join("etc/resolv.conf"), "").unwrap();
    let run = |program: &str, args: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new("timeout");
        command.args(["3", "chroot"]).arg(&root).arg(program).args(args);
        let path = std::env::var("PATH").unwrap();
        let output = command.env_clear().env("PATH", path).envs(env.iter().copied()).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert!(run("/kube-vip", &["version"], &[]).starts_with("Kube-VIP Release Information"));
    let env = [
        ("vip_arp", "true"),
        ("cp_enable", "true"),
        ("address", "vip.test"),
        ("vip_interface", "lo"),
        ("prometheus_server", ""),
    ];
    let log = run("/kube-vip", &["manager"], &env);
    let manifest = run("/kube-vip-cloud-provider", &["manifest"], &[]);
    assert!(manifest.contains("kind: Deployment"), "{manifest}");
    std::fs::remove_dir_all(&root).unwrap();
    assert!(log.contains("resolved the name") && log.contains("192.0.2.44"), "{log}");
    assert!(log.contains("kubeconfig /etc/kubernetes/admin.conf does not exist"), "{log}");
}
