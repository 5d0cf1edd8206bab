//! `status`: how a mirror is, at a glance.

use std::cmp::Reverse;
use std::fmt::Write as _;

use registry_core::Timestamp;
use registry_server::api::{
    ConfigurationState, EndpointState, Health, QuotaState, Status, Storage, Traffic, UpstreamState,
};

use super::Session;
use super::failure::{Exit, Failure};
use super::jobs;
use super::line;
use super::screen::{BAD, BOLD, DIM, GOOD, ODD, Screen, paint};
use super::table::{Side, Table};
use super::words::{NOTHING, ago, count, many, percent, size, span, wrapped};

/// Columns that the names of sections take.
const LABEL_WIDTH: usize = 11;
/// Columns of a bar.
const BAR_WIDTH: u128 = 24;
/// In percent: a budget that is used up so far is full, as far as a person is concerned. It is
/// what eviction keeps it at, and nothing bad.
const FULL_PERCENT: u128 = 95;
/// One of so many pulls left is few.
const QUOTA_LOW_DIVISOR: u64 = 10;
/// Answers that took no bytes of an upstream.
const FROM_CACHE: [&str; 4] = ["hit", "revalidated", "stale", "follow"];

pub(super) async fn show(session: &Session, asked: &line::Status) -> Result<Exit, Failure> {
    let status: Status = session.client.get("status", &[]).await?;
    session
        .screen
        .show(&status, |status| text(status, asked.all, &session.screen))?;
    Ok(Exit::Done)
}

fn text(status: &Status, all: bool, screen: &Screen) -> String {
    let mut text = heading(status, screen.now());
    for problem in &status.health.problems {
        let _ = writeln!(
            text,
            "  {} {}",
            paint(ODD, "!"),
            wrapped(problem, screen.width(), 4)
        );
    }
    text.push('\n');
    let mut section = |label: &str, lines: Vec<String>| {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let label = paint(BOLD, format!("{label:<LABEL_WIDTH$}"));
            let _ = writeln!(
                text,
                "{label}{}",
                wrapped(line, screen.width(), LABEL_WIDTH)
            );
        }
    };
    section("Storage", storage(status));
    section("Pulls", traffic(&status.traffic));
    section("Config", configuration(&status.configuration, screen.now()));
    text.push('\n');
    text.push_str(&upstreams(&status.upstreams, all, screen));
    if !status.jobs.is_empty() {
        text.push('\n');
        text.push_str(&jobs::table(&status.jobs, screen));
    }
    text
}

fn heading(status: &Status, now: Timestamp) -> String {
    let Health { ready, problems } = &status.health;
    let health = match (ready, problems.is_empty()) {
        (true, true) => paint(GOOD.bold(), "● healthy"),
        (true, false) => paint(ODD.bold(), "● needs a look"),
        (false, _) => paint(BAD.bold(), "● not ready"),
    };
    let up = span(now.since(status.started_at.timestamp()));
    let (version, listen) = (&status.version, &status.listen);
    format!("{health}  registry-server {version}, up {up}, serving on {listen}\n")
}

fn storage(status: &Status) -> Vec<String> {
    let storage = &status.storage;
    let mut lines = vec![room(storage)];
    lines.push(format!(
        "{}, {}, {}",
        many(storage.blobs, "blob", "blobs"),
        many(storage.manifests, "manifest", "manifests"),
        many(storage.pins, "pin", "pins"),
    ));
    let mut news = Vec::new();
    if storage.unfinished_bytes > 0 {
        news.push(format!("{} in downloads", size(storage.unfinished_bytes)));
    }
    if storage.evicted_bytes > 0 {
        news.push(format!("{} evicted", size(storage.evicted_bytes)));
    }
    if storage.healed > 0 {
        let times = many(storage.healed, "time", "times");
        news.push(paint(ODD, format!("healed {times}")));
    }
    if storage.failures > 0 {
        let times = many(storage.failures, "failure", "failures");
        news.push(paint(BAD, format!("{times} of the store")));
    }
    if !news.is_empty() {
        lines.push(news.join(", "));
    }
    if let Some(folder) = &status.data_dir {
        lines.push(paint(DIM, folder));
    }
    lines
}

/// How much is kept of how much may be.
pub(super) fn room(storage: &Storage) -> String {
    let free = storage
        .free_bytes
        .map(|free| format!("{} free on the disk", size(free)));
    let kept = size(storage.bytes);
    let Some(budget) = storage.bytes_max else {
        let free = free.map(|free| format!(", {free}")).unwrap_or_default();
        return format!("{kept}, without a budget (max_size){free}");
    };
    let (used, budget_or_one) = (u128::from(storage.bytes), u128::from(budget.max(1)));
    let style = if used > budget_or_one {
        BAD
    } else if used * 100 >= budget_or_one * FULL_PERCENT {
        ODD
    } else {
        GOOD
    };
    // A little of something is not nothing.
    let filled = (used * BAR_WIDTH).div_ceil(budget_or_one).min(BAR_WIDTH);
    let blocks =
        |sign: &str, blocks: u128| sign.repeat(usize::try_from(blocks).unwrap_or_default());
    let bar = paint(style, blocks("█", filled)) + &paint(DIM, blocks("░", BAR_WIDTH - filled));
    let part = percent(storage.bytes, budget).unwrap_or_else(|| NOTHING.to_owned());
    let free = free.map(|free| format!(", {free}")).unwrap_or_default();
    format!("{bar}  {kept} of {} ({part}){free}", size(budget))
}

fn traffic(traffic: &Traffic) -> Vec<String> {
    let answers: u64 = traffic.answers.values().sum();
    if answers == 0 {
        return vec!["none yet".to_owned()];
    }
    let of = |kind: &str| traffic.answers.get(kind).copied().unwrap_or_default();
    let cached: u64 = FROM_CACHE.iter().map(|kind| of(kind)).sum();
    let ratio = percent(cached, answers).unwrap_or_default();
    let mut lines = vec![format!(
        "{} from the cache: {cached} of {}",
        paint(GOOD, ratio),
        many(answers, "answer", "answers"),
        cached = count(cached),
    )];
    let (served, fetched) = (traffic.served_bytes, traffic.upstream_bytes);
    let mut bytes = format!("{} served, {} fetched", size(served), size(fetched));
    if let Some(saved) = served.checked_sub(fetched).filter(|saved| *saved > 0) {
        let _ = write!(bytes, ": {} saved", size(saved));
    }
    lines.push(bytes);
    let mut kinds: Vec<_> = traffic.answers.iter().collect();
    kinds.retain(|(_, answers)| **answers > 0);
    kinds.sort_by_key(|(_, answers)| Reverse(**answers));
    let kinds: Vec<_> = kinds
        .into_iter()
        .map(|(kind, answers)| format!("{} {kind}", count(*answers)))
        .collect();
    lines.push(paint(DIM, kinds.join(", ")));
    if traffic.fills_active > 0 {
        lines.push(format!(
            "{} under way",
            many(traffic.fills_active, "download", "downloads")
        ));
    }
    lines
}

fn configuration(state: &ConfigurationState, now: Timestamp) -> Vec<String> {
    let file = state.file.as_deref().unwrap_or("no file");
    let mut lines = vec![format!("{file}, read {}", ago(state.loaded_at, now))];
    if let Some(refused) = &state.refused {
        lines.push(format!(
            "{}: {refused}",
            paint(BAD, "what it says now is not in effect")
        ));
    }
    for key in &state.needs_restart {
        lines.push(format!("{}: {key}", paint(ODD, "needs a restart")));
    }
    lines
}

fn upstreams(upstreams: &[UpstreamState], all: bool, screen: &Screen) -> String {
    let (shown, quiet): (Vec<_>, Vec<_>) = upstreams.iter().partition(|it| all || has_news(it));
    let mut text = String::new();
    if !shown.is_empty() {
        text.push_str(&upstream_table(&shown, screen));
    }
    for it in &shown {
        for endpoint in &it.endpoints {
            text.push_str(&last_error(it, endpoint, screen));
        }
    }
    if !quiet.is_empty() {
        let names: Vec<_> = quiet.iter().map(|it| it.name.as_str()).collect();
        let line = format!("No news of {}.", names.join(", "));
        let line = wrapped(&line, screen.width(), 0);
        let _ = writeln!(text, "{}", paint(DIM, line));
    }
    text
}

/// Whether there is more to tell of an upstream than that it is configured.
fn has_news(upstream: &UpstreamState) -> bool {
    let has_news = |it: &EndpointState| {
        !it.up || it.since.is_some() || it.last_error.is_some() || !it.quotas.is_empty()
    };
    upstream.bytes.is_some_and(|bytes| bytes > 0) || upstream.endpoints.iter().any(has_news)
}

fn upstream_table(upstreams: &[&UpstreamState], screen: &Screen) -> String {
    let mut table = Table::new([
        ("UPSTREAM", Side::Left),
        ("ENDPOINT", Side::Left),
        ("STATE", Side::Left),
        ("PULLS LEFT", Side::Right),
        ("CACHED", Side::Right),
    ]);
    for upstream in upstreams {
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            let is_first = index == 0;
            let cached = upstream.bytes.filter(|_| is_first).map(size);
            table.row([
                if is_first {
                    upstream.name.clone()
                } else {
                    String::new()
                },
                endpoint.endpoint.clone(),
                state(endpoint, screen.now()),
                quota(&endpoint.quotas),
                cached.unwrap_or_else(|| NOTHING.to_owned()),
            ]);
        }
    }
    table.render(screen.width())
}

fn state(endpoint: &EndpointState, now: Timestamp) -> String {
    let since = endpoint
        .since
        .map(|at| format!(" for {}", span(now.since(at.timestamp()))));
    let since = since.unwrap_or_default();
    match endpoint.up {
        true => paint(GOOD, format!("up{since}")),
        false => paint(BAD, format!("resting{since}")),
    }
}

/// What is left of the quota that is nearest to its end.
fn quota(quotas: &[QuotaState]) -> String {
    let known = quotas
        .iter()
        .filter_map(|it| Some((it.remaining?, it.limit?)));
    let scarcest = known.min_by_key(|(remaining, limit)| {
        u128::from(*remaining) * u128::from(u32::MAX) / u128::from((*limit).max(1))
    });
    let Some((remaining, limit)) = scarcest else {
        return NOTHING.to_owned();
    };
    let text = format!("{} of {}", count(remaining), count(limit));
    match remaining {
        0 => paint(BAD, text),
        _ if remaining < limit / QUOTA_LOW_DIVISOR => paint(ODD, text),
        _ => text,
    }
}

fn last_error(upstream: &UpstreamState, endpoint: &EndpointState, screen: &Screen) -> String {
    let Some(error) = &endpoint.last_error else {
        return String::new();
    };
    let style = if endpoint.up { DIM } else { BAD };
    let at = ago(error.at, screen.now());
    let line = format!(
        "{} at {}, {at}: {}",
        upstream.name, endpoint.endpoint, error.what
    );
    format!(
        "  {} {}\n",
        paint(style, "last error"),
        wrapped(&line, screen.width(), 4)
    )
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;

    use super::*;

    fn plain(bytes: u64, bytes_max: Option<u64>, free_bytes: Option<u64>) -> String {
        let storage = Storage {
            bytes,
            bytes_max,
            free_bytes,
            ..Storage::default()
        };
        strip_str(&room(&storage)).to_string()
    }

    #[test]
    fn room_is_shown_against_the_budget() {
        assert_eq!(
            plain(1 << 30, Some(4 << 30), Some(9 << 30)),
            "██████░░░░░░░░░░░░░░░░░░  1.0 GiB of 4.0 GiB (25.0 %), 9.0 GiB free on the disk"
        );
        assert_eq!(
            plain(1, Some(4 << 30), None),
            "█░░░░░░░░░░░░░░░░░░░░░░░  1 B of 4.0 GiB (0.0 %)"
        );
        assert_eq!(
            plain(5 << 30, Some(4 << 30), None),
            "████████████████████████  5.0 GiB of 4.0 GiB (125.0 %)"
        );
        assert_eq!(
            plain(1 << 30, None, None),
            "1.0 GiB, without a budget (max_size)"
        );
        assert!(plain(u64::MAX, Some(u64::MAX), None).contains("(100.0 %)"));
        assert!(plain(0, Some(0), None).starts_with('░'));
    }

    #[test]
    fn the_scarcest_quota_is_told() {
        let quota = |remaining, limit| QuotaState {
            credential: "anonymous".to_owned(),
            limit: Some(limit),
            remaining: Some(remaining),
            window_seconds: None,
            at: None,
        };
        let told = |quotas: &[QuotaState]| strip_str(&super::quota(quotas)).to_string();
        assert_eq!(told(&[]), "-");
        assert_eq!(told(&[quota(90, 100), quota(150, 5_000)]), "150 of 5,000");
        assert_eq!(told(&[quota(0, 0)]), "0 of 0");
    }
}
