//! `why`: what is known of an image.

use std::fmt::Write as _;

use registry_server::api::{
    Image, ImageManifest, NextPull, RemovedImage, UpstreamAnswer, Verdict, Why,
};

use super::Session;
use super::failure::{Exit, Failure};
use super::screen::{BAD, BOLD, DIM, GOOD, ODD, Screen, paint};
use super::table::{Side, Table};
use super::words::{NOTHING, ago, ago_or_never, many, short, size, wrapped};

/// Columns that the names of facts take.
const LABEL_WIDTH: usize = 13;
/// How many of the blobs that are missing are named.
const MISSING_NAMED_MAX: usize = 10;

pub(super) async fn explain(session: &Session, image: &str) -> Result<Exit, Failure> {
    let why: Why = session.client.get("why", &[("name", image)]).await?;
    session
        .screen
        .show(&why, |why| text(why, &session.screen))?;
    Ok(match why.verdict {
        Verdict::Cached | Verdict::Partial | Verdict::Filling => Exit::Done,
        Verdict::Removed | Verdict::Absent | Verdict::UnknownUpstream => Exit::Like(NOT_FOUND),
    })
}

/// Exit status where it is not here.
const NOT_FOUND: u8 = 3;

fn text(why: &Why, screen: &Screen) -> String {
    let mut text = format!("{}  {}\n", paint(BOLD, &why.name), verdict(why.verdict));
    for sentence in &why.explanation {
        let _ = writeln!(text, "  {}", wrapped(sentence, screen.width(), 2));
    }
    text.push('\n');
    let mut fact = |label: &str, value: String| {
        let value = wrapped(&value, screen.width(), LABEL_WIDTH);
        let label = paint(DIM, format!("{label:<LABEL_WIDTH$}"));
        let _ = writeln!(text, "{label}{value}");
    };
    fact("Next pull", next_pull(why.next_pull).to_owned());
    if let Some(image) = &why.image {
        facts(image, screen, &mut fact);
    }
    if let Some(answer) = &why.last_answer {
        fact("Last answer", last_answer(answer, screen));
    }
    if let Some(removal) = &why.removal {
        fact("Removed", removed(removal, screen));
    }
    if let Some(image) = &why.image
        && !image.manifests.is_empty()
    {
        text.push('\n');
        text.push_str(&manifests(&image.manifests, screen));
        text.push_str(&missing(&image.manifests));
    }
    text
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Cached => paint(GOOD.bold(), "cached"),
        Verdict::Partial => paint(ODD.bold(), "partly cached"),
        Verdict::Filling => paint(ODD.bold(), "being fetched"),
        Verdict::Removed => paint(BAD.bold(), "was removed"),
        Verdict::Absent => paint(BAD.bold(), "not cached"),
        Verdict::UnknownUpstream => paint(BAD.bold(), "unknown upstream"),
    }
}

fn next_pull(next: NextPull) -> &'static str {
    match next {
        NextPull::Hit => "is served from the cache; nobody is asked",
        NextPull::Revalidate => "asks the registry once whether the tag has moved, and is served",
        NextPull::Stale => "is served from the cache, marked stale",
        NextPull::Fetch => "fetches what is missing",
        NextPull::Fail => "fails",
    }
}

fn facts(image: &Image, screen: &Screen, fact: &mut impl FnMut(&str, String)) {
    let time = |at| match at {
        Some(at) => format!("{} ({at})", ago(at, screen.now())),
        None => NOTHING.to_owned(),
    };
    fact("Digest", image.digest.clone());
    let own = match image.own_bytes {
        own if own == image.bytes => "all its own".to_owned(),
        own => format!("{} of them its own", size(own)),
    };
    fact("Size", format!("{}, {own}", size(image.bytes)));
    if !image.platforms.is_empty() {
        fact("Platforms", image.platforms.join(", "));
    }
    fact("Fetched", time(image.fetched_at));
    if image.tag.is_some() {
        fact("Validated", time(image.validated_at));
    }
    fact("Last pull", time(image.accessed_at));
    let pinned = if image.pinned {
        "yes: it is never evicted"
    } else {
        "no"
    };
    fact("Pinned", pinned.to_owned());
}

fn last_answer(answer: &UpstreamAnswer, screen: &Screen) -> String {
    let mut text = format!("{}, {}", answer.answer, ago(answer.at, screen.now()));
    if let Some(endpoint) = &answer.endpoint {
        let _ = write!(text, ", by {endpoint}");
    }
    if let Some(error) = &answer.error {
        let _ = write!(text, ": {error}");
    }
    text
}

fn removed(removal: &RemovedImage, screen: &Screen) -> String {
    let reason = match removal.reason.as_str() {
        "size" => "the budget for all content was used up",
        "disk" => "the disk was full",
        "quota" => "the budget of its upstream or repository was used up",
        "idle" => "nobody used it for too long",
        "deleted" => "a person asked for it",
        "damaged" => "what was stored was damaged",
        other => other,
    };
    let at = ago(removal.at, screen.now());
    let digest = short(&removal.digest);
    let mut text = format!("{at} ({digest}): {reason}");
    if let Some(accessed) = removal.accessed_at {
        let _ = write!(text, "; last pulled {}", ago(accessed, screen.now()));
    }
    text
}

fn manifests(manifests: &[ImageManifest], screen: &Screen) -> String {
    let mut table = Table::new([
        ("MANIFEST", Side::Left),
        ("IS", Side::Left),
        ("SIZE", Side::Right),
        ("HELD", Side::Right),
        ("BLOBS", Side::Right),
        ("FROM", Side::Left),
        ("LAST PULL", Side::Right),
    ]);
    let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| NOTHING.to_owned());
    for it in manifests {
        let held = it.blobs.iter().filter(|blob| blob.held).count();
        table.row([
            short(&it.digest).to_owned(),
            kind(it),
            size(it.bytes),
            match it.held {
                true if it.held_bytes >= it.bytes => paint(GOOD, "all"),
                true => paint(ODD, size(it.held_bytes)),
                false => paint(DIM, "no"),
            },
            format!("{held}/{}", it.blobs.len()),
            or_nothing(&it.endpoint),
            ago_or_never(it.accessed_at, screen.now()),
        ]);
    }
    table.render(screen.width())
}

/// What a manifest is to a person.
fn kind(manifest: &ImageManifest) -> String {
    match (
        &manifest.platform,
        &manifest.attached_to,
        &manifest.artifact_type,
    ) {
        (Some(platform), _, _) => platform.clone(),
        (None, Some(to), _) => format!("attached to {}", short(to)),
        (None, None, Some(artifact)) => artifact.clone(),
        (None, None, None) if manifest.blobs.is_empty() => "index".to_owned(),
        (None, None, None) => NOTHING.to_owned(),
    }
}

/// The blobs that are missing of manifests which are held.
fn missing(manifests: &[ImageManifest]) -> String {
    let held = manifests.iter().filter(|it| it.held);
    let missing: Vec<_> = held
        .flat_map(|it| &it.blobs)
        .filter(|blob| !blob.held)
        .collect();
    if missing.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n{} missing:\n",
        many(missing.len() as u64, "blob is", "blobs are")
    );
    for blob in missing.iter().take(MISSING_NAMED_MAX) {
        let bytes = blob.bytes.map_or_else(|| NOTHING.to_owned(), size);
        let _ = writeln!(text, "  {}  {bytes}", blob.digest);
    }
    if missing.len() > MISSING_NAMED_MAX {
        let _ = writeln!(text, "  and {} more", missing.len() - MISSING_NAMED_MAX);
    }
    text
}
