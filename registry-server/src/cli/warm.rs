//! `warm`: images, fetched before anybody pulls them.

use std::env;
use std::env::consts::ARCH;
use std::fs::File;
use std::io::{self, Read};

use registry_server::api::JobRequest;
use serde::Serialize;

use super::Session;
use super::failure::{Exit, Failure};
use super::follow;
use super::line::Warm;
use super::screen::{ODD, Screen, paint};
use super::sources::{self, Found, SOURCE_BYTES_MAX};
use super::words::many;

/// What stands for standard input.
const STDIN: &str = "-";

/// What `--dry-run` tells.
#[derive(Debug, Serialize)]
struct Plan {
    images: Vec<String>,
    platforms: Vec<String>,
    unusable: Vec<String>,
}

/// Tells what would be fetched. No mirror is asked.
pub(super) fn list(warm: &Warm, screen: &Screen) -> Result<Exit, Failure> {
    let found = gather(warm, screen)?;
    let exit = Exit::of(found.images.len(), found.unusable.len());
    let plan = Plan {
        images: found.images,
        platforms: platforms(warm),
        unusable: found.unusable,
    };
    screen.show(&plan, |plan| {
        plan.images.iter().map(|it| format!("{it}\n")).collect()
    })?;
    Ok(exit)
}

pub(super) async fn warm(session: &Session, warm: &Warm) -> Result<Exit, Failure> {
    let found = gather(warm, &session.screen)?;
    if found.images.is_empty() {
        return Err(Failure::Usage("no image is named".to_owned()));
    }
    let request = JobRequest::Warm {
        images: found.images,
        platforms: platforms(warm),
        attached: warm.attached,
    };
    let exit = follow::begin(session, &request, warm.watching).await?;
    Ok(match exit {
        Exit::Done if !found.unusable.is_empty() => Exit::Partly,
        exit => exit,
    })
}

/// The images of all that is named, each once.
fn gather(warm: &Warm, screen: &Screen) -> Result<Found, Failure> {
    let mut found = Found::default();
    for name in warm.images.iter().filter(|name| *name != STDIN) {
        sources::check(name).map_err(Failure::Usage)?;
        if !found.images.contains(name) {
            found.images.push(name.clone());
        }
    }
    let stdin = warm.images.iter().any(|name| name == STDIN);
    let files = warm
        .files
        .iter()
        .map(|file| file.to_string_lossy().into_owned());
    for place in stdin.then(|| STDIN.to_owned()).into_iter().chain(files) {
        let text = if place == STDIN {
            read(io::stdin().lock())
        } else {
            File::open(&place).and_then(read)
        };
        let place = if place == STDIN {
            "standard input"
        } else {
            &place
        };
        let text = text.map_err(|error| Failure::Usage(format!("cannot read {place}: {error}")))?;
        let in_it = sources::find(&text, warm.format, &|name| env::var(name).ok());
        let in_it = in_it.map_err(|problem| Failure::Usage(format!("{place}: {problem}")))?;
        let images = many(in_it.images.len() as u64, "image", "images");
        screen.remark(&format!("{place}: {images}"));
        for remark in &in_it.remarks {
            screen.remark(&format!("{place}: {remark}"));
        }
        for problem in &in_it.unusable {
            screen.remark(&format!(
                "{} {place}: {problem}",
                paint(ODD.bold(), "left out:")
            ));
        }
        found.append(in_it);
    }
    Ok(found)
}

/// A text, if it is not too long.
fn read(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(SOURCE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)?;
    if text.len() > SOURCE_BYTES_MAX {
        let limit = SOURCE_BYTES_MAX >> 20;
        return Err(io::Error::other(format!("it has more than {limit} MiB")));
    }
    Ok(text)
}

/// The platforms to fetch; all of them where the list is empty.
fn platforms(warm: &Warm) -> Vec<String> {
    if warm.all_platforms {
        Vec::new()
    } else if warm.platforms.is_empty() {
        vec![own_platform()]
    } else {
        warm.platforms.clone()
    }
}

/// Linux on the processor that this runs on, in the words of images.
fn own_platform() -> String {
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    format!("linux/{architecture}")
}
