//! What this machine must offer before a real client can be run on it.

use std::env;
use std::io::Write as _;
use std::path::Path;

/// Where system programs are that are not on every user's path.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// What every one of these tests runs.
const ALWAYS: [&str; 5] = ["curl", "docker-registry", "setpriv", "skopeo", "unshare"];

/// True where `programs` are installed and the tests run as root, which the clients' daemons need.
///
/// # Panics
///
/// Where something is missing and `CI=true`: a test that is skipped there proves nothing. Elsewhere
/// it says so on standard error, past the capture of the test runner.
pub(crate) fn are_met(test: &str, programs: &[&str]) -> bool {
    let mut missing: Vec<String> = ALWAYS
        .iter()
        .chain(programs)
        .filter(|program| !is_installed(program))
        .map(|program| format!("`{program}` is not installed"))
        .collect();
    if !rustix::process::geteuid().is_root() {
        missing.push("the tests do not run as root".to_owned());
    }
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(
        env::var_os("CI").is_none_or(|value| value != "true"),
        "{test} cannot run: {missing}"
    );
    let text = format!("\n!!!! SKIPPED {test}: {missing}. `.ci/run` installs what it needs.\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
    false
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(|folder| Path::new(folder).into()))
        .any(|folder| folder.join(program).is_file())
}
