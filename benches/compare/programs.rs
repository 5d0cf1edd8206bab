//! Which programs are there. None is installed from here.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;
use crate::options::Options;
use crate::peer::Program;
use crate::process::command;

/// Where programs are besides what `PATH` says: those of administrators.
const MORE_PATHS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// What a column says of a program that is not there.
pub(crate) const NOT_INSTALLED: &str = "not installed";

/// What is compared, and what it is measured with.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) mirror: PathBuf,
    pub(crate) nginx: Option<PathBuf>,
    pub(crate) registry: Option<PathBuf>,
    pub(crate) wrk: Option<PathBuf>,
    pub(crate) curl: Option<PathBuf>,
    pub(crate) perf: Option<PathBuf>,
}

impl Programs {
    /// Looks for them, and builds the mirror unless there is one.
    ///
    /// # Errors
    ///
    /// Where the mirror cannot be built; or a peer is missing, and `CI` is `true`.
    pub(crate) fn find(options: &Options) -> Outcome<Self> {
        let programs = Self {
            mirror: mirror(options)?,
            nginx: find("nginx"),
            registry: find("docker-registry"),
            wrk: find("wrk"),
            curl: find("curl"),
            perf: find("perf"),
        };
        let wanted = [
            ("nginx", &programs.nginx),
            ("docker-registry", &programs.registry),
            ("wrk", &programs.wrk),
            ("curl", &programs.curl),
        ];
        let missing = wanted.iter().filter(|(_, path)| path.is_none());
        let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            println!(
                "NOT INSTALLED: {}; what needs them is not measured",
                missing.join(", ")
            );
            if env::var("CI").is_ok_and(|ci| ci == "true") {
                return Err(format!("CI=true, and these are missing: {missing:?}").into());
            }
        }
        Ok(programs)
    }

    pub(crate) fn path(&self, program: Program) -> Option<&Path> {
        match program {
            Program::Mirror => Some(&self.mirror),
            Program::Nginx => self.nginx.as_deref(),
            Program::Registry => self.registry.as_deref(),
        }
    }

    /// What each says of its version.
    pub(crate) fn versions(&self) -> Vec<(&'static str, String)> {
        let asked = [
            ("mirror", Some(&self.mirror), "--version"),
            ("nginx", self.nginx.as_ref(), "-v"),
            ("docker-registry", self.registry.as_ref(), "--version"),
            ("wrk", self.wrk.as_ref(), "-v"),
            ("curl", self.curl.as_ref(), "--version"),
        ];
        let told = asked.map(|(name, path, flag)| {
            let version = path.and_then(|path| first_line(path, flag));
            (name, version.unwrap_or_else(|| NOT_INSTALLED.to_owned()))
        });
        told.into()
    }
}

fn first_line(program: &Path, flag: &str) -> Option<String> {
    let output = command(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().map(|line| line.trim().to_owned())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(MORE_PATHS.map(PathBuf::from));
    let mut candidates = folders.map(|folder| folder.join(name));
    candidates.find(|candidate| candidate.is_file())
}

/// The binary: the caller's, or else the one of the profile that this program was built with.
fn mirror(options: &Options) -> Outcome<PathBuf> {
    if let Some(path) = &options.mirror {
        return Ok(path.canonicalize()?);
    }
    let this = env::current_exe()?;
    // …/release/deps/compare-0123
    let profile = this.ancestors().nth(2).ok_or("this program lies nowhere")?;
    let binary = profile.join("registry-server");
    // The tests of the workspace have built it, perhaps with more features: for what is asserted
    // it is as good, and it is not built a second time.
    if options.is_smoke && binary.is_file() {
        return Ok(binary);
    }
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args([
        "build",
        "--package",
        "registry-server",
        "--bin",
        "registry-server",
    ]);
    if !options.is_smoke {
        build.arg("--release");
    }
    println!("building the mirror: {build:?}");
    match build.status()?.success() && binary.is_file() {
        true => Ok(binary),
        false => Err(format!("{build:?} has not made {}", binary.display()).into()),
    }
}
