//! `df`: what takes how much room.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use registry_server::api::{Image, Page, Repository, Status, Storage};
use serde::Serialize;

use super::Session;
use super::failure::{Exit, Failure};
use super::line::Df;
use super::screen::{BOLD, DIM, Screen, paint};
use super::status::room;
use super::table::{Side, Table};
use super::words::{NOTHING, count, many, percent, size};

/// What takes how much room: the documents of the API that say so.
#[derive(Debug, Serialize)]
struct Usage {
    storage: Storage,
    repositories: Vec<Share>,
}

/// What a repository takes.
#[derive(Debug, Serialize)]
struct Share {
    #[serde(flatten)]
    repository: Repository,
    /// Bytes that only one image needs each: what removing all of its images would give free, at
    /// the least.
    own_bytes: u64,
}

pub(super) async fn show(session: &Session, df: &Df) -> Result<Exit, Failure> {
    let client = &session.client;
    let status: Status = client.get("status", &[]).await?;
    let upstream = df.upstream.as_deref().map(|it| ("upstream", it));
    let query: Vec<_> = upstream.into_iter().collect();
    let repositories: Page<Repository> = client.pages("repositories", &query).await?;
    if let (Some(upstream), true) = (&df.upstream, repositories.items.is_empty()) {
        let problem = format!("nothing of {upstream} is cached");
        return Err(Failure::NotFound(problem));
    }
    let images: Page<Image> = client.pages("images", &query).await?;
    let own = own_bytes(&images.items);
    let shares = repositories.items.into_iter().map(|repository| {
        let key = (repository.upstream.clone(), repository.repository.clone());
        Share {
            own_bytes: own.get(&key).copied().unwrap_or_default(),
            repository,
        }
    });
    let usage = Usage {
        storage: status.storage,
        repositories: shares.collect(),
    };
    session
        .screen
        .show(&usage, |usage| text(usage, df, &session.screen))?;
    Ok(Exit::Done)
}

/// By repository, the bytes that one image needs and no other. Several tags of one image are one.
fn own_bytes(images: &[Image]) -> BTreeMap<(String, String), u64> {
    let mut counted = BTreeSet::new();
    let mut own = BTreeMap::new();
    for image in images {
        if counted.insert((&image.upstream, &image.repository, &image.digest)) {
            let key = (image.upstream.clone(), image.repository.clone());
            *own.entry(key).or_default() += image.own_bytes;
        }
    }
    own
}

fn text(usage: &Usage, df: &Df, screen: &Screen) -> String {
    let mut upstreams: BTreeMap<&str, Vec<&Share>> = BTreeMap::new();
    for share in &usage.repositories {
        upstreams
            .entry(&share.repository.upstream)
            .or_default()
            .push(share);
    }
    let bytes = |shares: &[&Share]| shares.iter().map(|it| it.repository.bytes).sum::<u64>();
    let mut upstreams: Vec<_> = upstreams.into_iter().collect();
    upstreams.sort_by_key(|(_, shares)| Reverse(bytes(shares)));
    let whole = usage.storage.bytes;
    let mut table = Table::new([
        ("UPSTREAM, REPOSITORY", Side::Left),
        ("SIZE", Side::Right),
        ("SHARE", Side::Right),
        ("OWN", Side::Right),
        ("SHARED", Side::Right),
        ("TAGS", Side::Right),
    ]);
    let share_of = |bytes| percent(bytes, whole).unwrap_or_else(|| NOTHING.to_owned());
    for (upstream, mut shares) in upstreams {
        shares.sort_by_key(|it| Reverse(it.repository.bytes));
        let total = bytes(&shares);
        let own = shares.iter().map(|it| it.own_bytes).sum::<u64>();
        table.row([
            paint(BOLD, upstream),
            size(total),
            share_of(total),
            size(own),
            size(total.saturating_sub(own)),
            count(shares.iter().map(|it| it.repository.tags).sum()),
        ]);
        let shown = if df.top == 0 { shares.len() } else { df.top };
        for it in shares.iter().take(shown) {
            table.row([
                format!("  {}", it.repository.repository),
                size(it.repository.bytes),
                share_of(it.repository.bytes),
                size(it.own_bytes),
                size(it.repository.bytes.saturating_sub(it.own_bytes)),
                count(it.repository.tags),
            ]);
        }
        if let Some(rest) = shares.get(shown..).filter(|rest| !rest.is_empty()) {
            let more = many(rest.len() as u64, "more", "more");
            let total = bytes(rest);
            let blank = String::new;
            let more = paint(DIM, format!("  {more}: --top 0 shows all"));
            table.row([
                more,
                size(total),
                share_of(total),
                blank(),
                blank(),
                blank(),
            ]);
        }
    }
    format!(
        "{}\n\n{}",
        room(&usage.storage),
        table.render(screen.width())
    )
}
