//! Release builds for each architecture.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use super::debian;
use crate::sh::{Outcome, have, root, run};
use crate::test::RELEASE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Go's word and Debian's, as in OCI images and file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// That of this machine.
    pub(crate) fn here() -> Result<Self, String> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => Err(format!("images cannot be built on {other}")),
        }
    }

    /// Rust's target.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The cross compiler for C, which also links.
    fn compiler(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// Debian's packages of the cross compiler, and of the C library for it.
    pub(super) fn packages(self) -> [&'static str; 2] {
        match self {
            Self::Amd64 => ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            Self::Arm64 => ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        }
    }

    /// Runs a program of this architecture on another one.
    pub(crate) fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-x86_64-static",
            Self::Arm64 => "qemu-aarch64-static",
        }
    }

    /// For cargo and for build scripts, where this is not the architecture of the machine.
    fn environment(self) -> [(&'static str, &'static str); 3] {
        let [linker, runner, compiler] = match self {
            Self::Amd64 => [
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
                "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
                "CC_x86_64_unknown_linux_gnu",
            ],
            Self::Arm64 => [
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                "CC_aarch64_unknown_linux_gnu",
            ],
        };
        [(linker, self.compiler()), (runner, self.emulator()), (compiler, self.compiler())]
    }

    /// Builds both programs. Returns their folder.
    pub(crate) fn build(self) -> Result<PathBuf, String> {
        self.cargo(&RELEASE)?;
        Ok(root().join("target").join(self.target()).join("release"))
    }

    /// Why cargo cannot build for it here.
    pub(crate) fn unavailable(self) -> Result<Option<String>, String> {
        let (target, [package, _]) = (self.target(), self.packages());
        let is_available = Self::here()? == self || self.has_compilers() || debian::is_available();
        Ok((!is_available).then(|| format!(
            "programs for {self} need root and the package debootstrap, or Rust's standard library for {target} \
             (`rustup target add {target}`) and the package {package}"
        )))
    }

    fn has_compilers(self) -> bool {
        has_standard_library(self.target()) && have(self.compiler())
    }

    /// Runs cargo for this architecture.
    pub(super) fn cargo(self, args: &[&str]) -> Outcome {
        if Self::here()? == self {
            return run("cargo", args, &[]);
        }
        if let Some(reason) = self.unavailable()? {
            return Err(reason);
        }
        let target = [("CARGO_BUILD_TARGET", self.target())];
        let environment = [&self.environment()[..], &target].concat();
        if self.has_compilers() {
            return run("cargo", args, &environment);
        }
        debian::cargo(self, args, &environment)
    }
}

/// Whether `rustup target add` or a package has installed it.
fn has_standard_library(target: &str) -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    let folder = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    Path::new(folder.trim()).is_dir()
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|architecture| architecture.name() == text);
        found.ok_or_else(|| format!("`{text}` is not an architecture of the images, which are: {names}"))
    }
}
