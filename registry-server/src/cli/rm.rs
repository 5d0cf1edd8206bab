//! `rm`: images, removed.

use std::collections::BTreeSet;

use registry_core::{Origin, Pin, Reference, Repository, Tag, UpstreamId};
use registry_server::api::{Image, Page, Removed};

use super::Session;
use super::failure::{Exit, Failure};
use super::line::Rm;
use super::names::{Names, is_pattern};
use super::screen::{GOOD, Screen, paint};
use super::words::{many, size};

/// How many images are named before removing them, of those that a pattern stands for.
const NAMED_MAX: usize = 20;

pub(super) async fn remove(session: &Session, rm: &Rm) -> Result<Exit, Failure> {
    let screen = &session.screen;
    let names = resolve(session, &rm.images).await?;
    if rm.dry_run {
        screen.show(&names, |names| {
            names.iter().map(|it| format!("{it}\n")).collect()
        })?;
        return Ok(Exit::Done);
    }
    let is_plain = names.len() == 1 && !rm.images.iter().any(|text| is_pattern(text));
    if !is_plain && !rm.yes {
        confirm(&names, screen)?;
    }
    let mut removed = Vec::new();
    let mut failures = Vec::new();
    for name in &names {
        match session
            .client
            .delete::<Removed>("image", &[("name", name)])
            .await
        {
            Ok(it) => removed.push(it),
            Err(failure) => failures.push((name, failure)),
        }
    }
    let page = Page {
        items: removed,
        next: None,
    };
    screen.show(&page, |page| text(&page.items))?;
    screen.settle(page.items.len(), failures)
}

fn confirm(names: &[String], screen: &Screen) -> Result<(), Failure> {
    let images = many(names.len() as u64, "image", "images");
    if !Screen::has_person() {
        return Err(Failure::Usage(format!(
            "this would remove {images}: --yes does, and --dry-run tells which"
        )));
    }
    for name in names.iter().take(NAMED_MAX) {
        screen.remark(&format!("  {name}"));
    }
    if let Some(more) = names.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        screen.remark(&format!("  and {more} more"));
    }
    match screen.confirm(&format!("Remove {images}?")) {
        true => Ok(()),
        false => Err(Failure::Failed("nothing was removed".to_owned())),
    }
}

fn text(removed: &[Removed]) -> String {
    let mut text = String::new();
    for it in removed {
        let (done, bytes) = (paint(GOOD, "removed"), size(it.bytes));
        text += &match &it.kept {
            Some(why) => format!("{done} {}, {bytes} are free: {why}\n", it.name),
            None => format!("{done} {}, {bytes} are free\n", it.name),
        };
    }
    if removed.len() > 1 {
        let images = many(removed.len() as u64, "image", "images");
        let bytes = removed.iter().map(|it| it.bytes).sum();
        text += &format!("{images}, {} are free\n", size(bytes));
    }
    text
}

/// The images that are meant, each once: patterns stand for those of them that are cached.
async fn resolve(session: &Session, texts: &[String]) -> Result<Vec<String>, Failure> {
    if let [text] = texts
        && !is_pattern(text)
    {
        return Ok(vec![text.clone()]);
    }
    let known = Names::ask(session).await?;
    let mut names = Vec::new();
    for text in texts {
        let meant = if is_pattern(text) {
            matching(session, &known.pin(text)?).await?
        } else {
            vec![known.image(text)?.to_string()]
        };
        if meant.is_empty() {
            let problem = format!("nothing that is cached is called {text}");
            return Err(Failure::NotFound(problem));
        }
        names.extend(meant);
    }
    // What is named twice can be removed once.
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

async fn matching(session: &Session, pin: &Pin) -> Result<Vec<String>, Failure> {
    let upstream = match pin {
        Pin::Image(origin, _) => origin.upstream(),
        Pin::Pattern { upstream, .. } => upstream,
    };
    let query = [("upstream", upstream.as_str())];
    let images: Page<Image> = session.client.pages("images", &query).await?;
    let held = images.items.into_iter().filter(|image| holds(pin, image));
    Ok(held.map(|image| image.name).collect())
}

fn holds(pin: &Pin, image: &Image) -> bool {
    let upstream = UpstreamId::parse(&image.upstream);
    let repository = Repository::parse(&image.repository);
    let (Ok(upstream), Ok(repository)) = (upstream, repository) else {
        return false;
    };
    let origin = Origin::new(upstream, repository);
    match image.tag.as_deref().map(Tag::parse) {
        Some(Ok(tag)) => pin.holds_tag(&origin, &tag),
        Some(Err(_)) => false,
        None => match Reference::parse(&image.digest) {
            Ok(Reference::Digest(digest)) => pin.holds_digest(&origin, digest),
            _ => false,
        },
    }
}
