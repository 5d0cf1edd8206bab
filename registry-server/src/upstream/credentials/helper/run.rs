//! One run of a credential helper.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::upstream::credentials::Credential;

/// How long a helper may run.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Most bytes that a helper may answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// The user name that stands for an identity token.
const IDENTITY_TOKEN_USER: &str = "<token>";
/// How a helper says that it has no credential for a server: it fails with this on standard output.
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    username: String,
    secret: SecretString,
}

/// Runs a helper; none where it has no credential for the server. The error says what it did, to be
/// put after its name; nothing that it said is in it.
///
/// # Cancellation
///
/// The helper is killed, with all that it started.
pub(super) async fn ask(program: &Path, server: &str) -> Result<Option<Credential>, String> {
    let seconds = TIME_MAX.as_secs();
    let outcome = timeout(TIME_MAX, exchange(program, server)).await;
    let (status, answer) = outcome.map_err(|_| format!("did not end within {seconds} s"))??;
    read(status, &answer)
}

async fn exchange(
    program: &Path,
    server: &str,
) -> Result<(ExitStatus, Zeroizing<Vec<u8>>), String> {
    let child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // It may tell there what must not be logged.
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let failed = |error: io::Error| format!("cannot be talked to: {error}");
    let mut running = Running(Some(child));
    let child = running.child();
    let mut question = child.stdin.take().expect("it is piped");
    // A helper that does not read, but answers all the same, is as good.
    let _ = question.write_all(format!("{server}\n").as_bytes()).await;
    drop(question);
    let mut answer = Zeroizing::new(Vec::new());
    let mut bounded = child
        .stdout
        .take()
        .expect("it is piped")
        .take(ANSWER_BYTES_MAX + 1);
    bounded.read_to_end(&mut answer).await.map_err(failed)?;
    if answer.len() as u64 > ANSWER_BYTES_MAX {
        return Err(format!("answered with more than {ANSWER_BYTES_MAX} bytes"));
    }
    let status = child.wait().await.map_err(failed)?;
    running.0 = None;
    Ok((status, answer))
}

/// A helper that is killed when this is dropped, with all that it started: some are scripts around
/// another program.
struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it has not ended yet")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Until it is waited for, nobody else can get its number.
        let id = self.0.as_ref().and_then(Child::id);
        let group = id
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(group) = group {
            // Where it has just ended, there is nothing left to kill; the runtime reaps it.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn read(status: ExitStatus, answer: &[u8]) -> Result<Option<Credential>, String> {
    if !status.success() {
        let said = answer.get(..NOT_FOUND.len()).unwrap_or_default();
        if said.eq_ignore_ascii_case(NOT_FOUND.as_bytes()) {
            return Ok(None);
        }
        return Err(format!("failed ({status}): run it by hand to see why"));
    }
    let document: Document = serde_json::from_slice(answer)
        .map_err(|_| "answered with something that is no credential".to_owned())?;
    let Document { username, secret } = document;
    match username.as_str() {
        IDENTITY_TOKEN_USER => Ok(Some(Credential::IdentityToken(secret))),
        name if name.contains(':') => Err("answered with a username with a colon".to_owned()),
        _ => Ok(Some(Credential::Password {
            username,
            password: secret,
        })),
    }
}
