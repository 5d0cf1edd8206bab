//! Where the mirror's time goes: perf, while it does one thing again and again.

use std::process::Stdio;
use std::time::Duration;

use crate::Outcome;
use crate::bench::Bench;
use crate::peer::Peer;
use crate::process::command;
use crate::programs::NOT_INSTALLED;

/// Samples a second: odd, so that nothing keeps step with it.
const FREQUENCY: &str = "997";
/// Functions with less of all samples than this are not told, nor more functions than that.
const PERCENT_MIN: &str = "1";
const FUNCTIONS_MAX: usize = 25;

/// A mirror that is ready, and what it is to do.
pub(crate) struct Work {
    pub(crate) peer: Peer,
    pub(crate) step: Step,
}

/// Does it once.
pub(crate) type Step = Box<dyn Fn(&Bench, &Peer) -> Outcome<()>>;

/// The functions that the mirror was found in most often, as a part of a document.
pub(crate) fn top(bench: &Bench, name: &str, work: &Work) -> Outcome<String> {
    let Some(perf) = bench.programs.perf.as_deref() else {
        return Err(format!("perf {NOT_INSTALLED}: no profile of {name}").into());
    };
    let data = bench.folder.path().join("perf.data");
    let seconds = bench.scale.load_time.max(Duration::from_secs(1)).as_secs();
    let mut recording = command(perf)
        .args([
            "record",
            "--quiet",
            "-e",
            "cpu-clock",
            "-F",
            FREQUENCY,
            "-g",
        ])
        .arg(format!("--pid={}", work.peer.process.id()))
        .arg("-o")
        .arg(&data)
        .args(["--", "sleep", &seconds.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let status = loop {
        (work.step)(bench, &work.peer)?;
        if let Some(status) = recording.try_wait()? {
            break status;
        }
    };
    if !status.success() {
        return Err(format!("perf may not record here: {status}").into());
    }
    let report = command(perf)
        .args([
            "report",
            "--stdio",
            "--no-children",
            "-g",
            "none",
            "--sort",
            "symbol",
        ])
        .args(["--percent-limit", PERCENT_MIN, "-i"])
        .arg(&data)
        .stderr(Stdio::null())
        .output()?;
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    let lines = report.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<&str> = lines.take(FUNCTIONS_MAX).collect();
    Ok(format!("### {name}\n\n```\n{}\n```\n", lines.join("\n")))
}
