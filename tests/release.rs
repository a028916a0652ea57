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
        // Without CAs on the host, as in an image.
        ("control_plane_health_check_address", "https://127.0.0.1:9/livez"),
    ];
    let log = run("/kube-vip", &["manager"], &env);
    let manifest = run("/kube-vip-cloud-provider", &["manifest"], &[]);
    assert!(manifest.contains("kind: Deployment"), "{manifest}");
    std::fs::remove_dir_all(&root).unwrap();
    assert!(log.contains("resolved the name") && log.contains("192.0.2.44"), "{log}");
    assert!(log.contains("kubeconfig /etc/kubernetes/admin.conf does not exist"), "{log}");
}

/// The image's program generates manifests, so that it has to know its image.
#[test]
#[ignore = "needs images, by `cargo xtask image`"]
fn images_are_read_by_skopeo_and_name_themselves_in_manifests() {
    let version = kube_vip::VERSION;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/image");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    for (name, user) in [("kube-vip", "0"), ("kube-vip-cloud-provider", "65532")] {
        let layout = format!("oci:{}", folder.join(name).display());
        let archive = folder.join(format!("{name}-{version}-{architecture}.tar"));
        let archive = format!("docker-archive:{}", archive.display());
        let config = |source: &str| {
            let output = Command::new("skopeo").args(["inspect", "--config", source]).output();
            // `cargo xtask setup` installs it.
            let output = output.unwrap();
            assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        };
        let (of_layout, of_archive) = (config(&layout), config(&archive));
        assert_eq!(of_layout["config"], of_archive["config"]);
        assert_eq!(of_layout["config"]["User"], user);
        assert_eq!(of_layout["config"]["Entrypoint"], serde_json::json!([format!("/{name}")]));
        // A copy verifies each digest and each size.
        let copy = std::env::temp_dir().join(format!("{name}-copy-{}", std::process::id()));
        let target = format!("dir:{}", copy.display());
        let copied = Command::new("skopeo").args(["--insecure-policy", "copy", &archive, &target]).output();
        let copied = copied.unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        std::fs::remove_dir_all(&copy).unwrap();
        let variable = of_layout["config"]["Env"][0].as_str().unwrap();
        let (key, image) = variable.split_once('=').unwrap();
        assert_eq!(image, format!("localhost/{name}:{version}"));
        let args: &[&str] = match name {
            "kube-vip" => &["manifest", "pod", "--services", "--arp"],
            _ => &["manifest"],
        };
        let output = Command::new(program(name)).args(args).env_clear().env(key, image).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(text.contains(&format!("image: {image}\n")), "{text}");
    }
}

fn dist() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/dist")
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn run(program: &str, args: &[&str], folder: &std::path::Path) -> String {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

#[test]
#[ignore = "needs the files of a release, by `cargo xtask dist`"]
fn the_files_of_a_release_are_complete() {
    let version = kube_vip::VERSION;
    let sums = run("sha256sum", &["--check", "--strict", "SHA256SUMS"], &dist());
    let name = format!("kube-vip-{version}-linux-{}", architecture());
    for file in [format!("{name}.tar.gz"), format!("{name}.cdx.json"), format!("manifests-{version}.tar.gz")]
    {
        assert!(sums.contains(&format!("{file}: OK")), "{file}: {sums}");
    }
    let folder = std::env::temp_dir().join(format!("kube-vip-dist-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let archive = dist().join(format!("{name}.tar.gz"));
    run("tar", &["--extract", "--file", &archive.to_string_lossy()], &folder);
    let host = folder.join(&name);
    assert!(run("./kube-vip", &["version"], &host).contains(version));
    let licences = std::fs::read_to_string(host.join("THIRD-PARTY-LICENSES")).unwrap();
    assert!(
        licences.contains("tokio ") && licences.contains("MIT License") && licences.contains("GNU C Library")
    );
    for file in
        ["systemd/kube-vip.service", "completions/kube-vip.bash", "completions/kube-vip-cloud-provider.fish"]
    {
        assert!(host.join(file).is_file(), "{file}");
    }
    for page in ["man/kube-vip.8", "man/kube-vip-cloud-provider.8"] {
        if Command::new("groff").arg("--version").output().is_err() {
            println!("skipped: no groff to format {page}");
            continue;
        }
        let text = run("groff", &["-K", "utf8", "-man", "-Tutf8", "-ww", "-P-c", page], &host);
        assert!(text.contains("System Manager") && !text.contains(": warning: "), "{page}: {text}");
    }
    let helm = kube_vip_lab::binaries::find("helm").unwrap();
    let charts = std::fs::read_dir(dist()).unwrap().flatten().map(|entry| entry.path());
    let charts: Vec<PathBuf> = charts.filter(|path| path.extension().is_some_and(|it| it == "tgz")).collect();
    assert_eq!(charts.len(), 2, "{charts:?}");
    for chart in charts {
        let text = run(&helm, &["template", "release", &chart.to_string_lossy()], &folder);
        assert!(text.contains("image: localhost/kube-vip"), "{text}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
#[ignore = "needs the files of a release, by `cargo xtask dist`"]
fn the_bills_of_materials_name_the_crates_with_their_sources() {
    for program in ["kube-vip", "kube-vip-cloud-provider"] {
        let name = format!("{program}-{}-linux-{}.cdx.json", kube_vip::VERSION, architecture());
        let text = std::fs::read_to_string(dist().join(name)).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["metadata"]["component"]["name"], program);
        let components = document["components"].as_array().unwrap();
        let named = |name: &str| components.iter().find(|component| component["name"] == name);
        let tokio = named("tokio").unwrap();
        assert!(
            tokio["purl"].as_str().unwrap().starts_with("pkg:cargo/tokio@") && tokio["hashes"].is_array()
        );
        assert_eq!(
            (&tokio["scope"], &named("serde_derive").unwrap()["scope"]),
            (&"required".into(), &"excluded".into())
        );
        // Of a package without a build script; of tests.
        assert!(named("rustc_version").is_none() && named("proptest").is_none());
        assert!(components.len() > 100, "{}", components.len());
    }
}
