//! Release builds for each architecture.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use super::debian;
use crate::sh::{have, root, run};
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

    /// For cargo and for build scripts, where this is not the architecture of the machine.
    fn environment(self) -> [(&'static str, &'static str); 2] {
        let (linker, compiler) = match self {
            Self::Amd64 => ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "CC_x86_64_unknown_linux_gnu"),
            Self::Arm64 => ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "CC_aarch64_unknown_linux_gnu"),
        };
        [(linker, self.compiler()), (compiler, self.compiler())]
    }

    /// Builds both programs. Returns their folder.
    pub(crate) fn build(self) -> Result<PathBuf, String> {
        let target = self.target();
        if Self::here()? == self {
            run("cargo", &RELEASE, &[])?;
        } else if has_standard_library(target) && have(self.compiler()) {
            let args = [&RELEASE[..], &["--target", target]].concat();
            run("cargo", &args, &self.environment())?;
        } else {
            let args = [&RELEASE[..], &["--target", target]].concat();
            debian::build(self, &args, &self.environment()).map_err(|error| {
                let [package, _] = self.packages();
                format!(
                    "{error}; or install Rust's standard library for {target} (`rustup target add {target}`) and the package {package}"
                )
            })?;
        }
        Ok(root().join("target").join(target).join("release"))
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
