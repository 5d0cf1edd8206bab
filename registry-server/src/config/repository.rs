//! What can be said of all repositories of an upstream, and of those that a pattern stands for.
//!
//! Both tables have the same keys. What a pattern does not say, its upstream says; where several
//! patterns stand for a repository, the most specific decides
//! ([ADR 16](../../../docs/adr/0016-what-a-reload-swaps.md)).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use registry_core::{RepositoryPattern, RepositoryRule, RetentionRule, UpstreamId, UpstreamPolicy};

use super::document::Table;
use super::place::{Place, Problems, Written};
use super::values;

/// How tags are kept fresh and content is kept: each setting, or none for that of the upstream, and
/// where it has none, for the general one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepositorySettings {
    /// How long a tag is fresh after the upstream confirmed it.
    pub tag_ttl: Option<Duration>,
    /// How long a pull waits for the upstream where something cached can answer instead.
    pub tag_budget: Option<Duration>,
    /// Whether a tag that the upstream no longer has is gone here too.
    pub forward_not_found: Option<bool>,
    /// Whether a tag that is held is never asked for again.
    pub frozen: Option<bool>,
    /// Bytes that all of the content may take together.
    pub bytes_max: Option<u64>,
    /// How long content is kept that nobody uses.
    pub idle_max: Option<Duration>,
    /// Whether content is evicted at all.
    pub evict: Option<bool>,
}

impl RepositorySettings {
    /// What these say, and where they are silent, what `below` says.
    pub(super) fn or(self, below: Self) -> Self {
        Self {
            tag_ttl: self.tag_ttl.or(below.tag_ttl),
            tag_budget: self.tag_budget.or(below.tag_budget),
            forward_not_found: self.forward_not_found.or(below.forward_not_found),
            frozen: self.frozen.or(below.frozen),
            bytes_max: self.bytes_max.or(below.bytes_max),
            idle_max: self.idle_max.or(below.idle_max),
            evict: self.evict.or(below.evict),
        }
    }

    /// How tags are kept fresh, where `general` stands in for what is not said.
    pub(super) fn policy(&self, general: UpstreamPolicy) -> UpstreamPolicy {
        UpstreamPolicy {
            tag_ttl: self.tag_ttl.unwrap_or(general.tag_ttl),
            tag_budget: self.tag_budget.unwrap_or(general.tag_budget),
            forward_not_found: self.forward_not_found.unwrap_or(general.forward_not_found),
            frozen: self.frozen.unwrap_or(general.frozen),
        }
    }

    /// How content is kept.
    pub(super) fn retention(&self) -> RetentionRule {
        RetentionRule {
            bytes_max: self.bytes_max,
            idle_max: self.idle_max,
            exempt: self.evict == Some(false),
        }
    }

    /// The rule of a pattern with these settings, whose upstream has those.
    pub(super) fn rule(&self, pattern: &RepositoryPattern, upstream: &Self) -> RepositoryRule {
        let whole = self.clone().or(Self {
            // The upstream's counts beside that of the pattern, not in place of it.
            bytes_max: None,
            ..upstream.clone()
        });
        RepositoryRule {
            pattern: pattern.clone(),
            policy: whole.policy(UpstreamPolicy::default()),
            retention: whole.retention(),
        }
    }
}

/// What the table of an upstream says.
pub(super) struct Rules {
    pub(super) of_all: RepositorySettings,
    pub(super) by_pattern: Vec<(Written<String>, RepositorySettings)>,
}

/// Settings as they are written, and where those stand that others can leave without effect.
struct Read {
    settings: RepositorySettings,
    /// Of no use where tags are frozen.
    freshness: Vec<Place>,
    /// Of no use where nothing is evicted.
    limits: Vec<Place>,
}

/// Takes the keys of this module from an upstream's table.
pub(super) fn read(table: &mut Table<'_>, problems: &mut Problems) -> Rules {
    let of_all = read_settings(table, problems);
    let example = "[upstream.\"ghcr.io\".repository.\"org/*\"]";
    let mut by_pattern = Vec::new();
    for (name, mut table) in table.tables("repository", example, problems) {
        if let Some(place) = table.inner_table() {
            let problem =
                format!("a pattern with dots or slashes is written in quotes, as in {example}");
            problems.add(place.clone(), problem);
            continue;
        }
        let found = problems.len();
        let read = read_settings(&mut table, problems);
        table.refuse_the_rest(problems);
        if read.settings == RepositorySettings::default() && problems.len() == found {
            let problem = "says nothing; write for example tag_ttl = \"1h\", or remove it";
            problems.add(name.place.clone(), problem);
        }
        by_pattern.push((name, read));
    }
    let said = |of: fn(&RepositorySettings) -> Option<bool>, value| {
        by_pattern
            .iter()
            .any(|(_, read)| of(&read.settings) == Some(value))
    };
    let (thawed, evicted) = (
        said(|rules| rules.frozen, false),
        said(|rules| rules.evict, true),
    );
    // A pattern may still have use for what has none for the upstream.
    of_all.refuse_idle_words(&of_all.settings, thawed, evicted, problems);
    for (_, read) in &by_pattern {
        read.refuse_idle_words(&of_all.settings, false, false, problems);
    }
    Rules {
        of_all: of_all.settings,
        by_pattern: by_pattern
            .into_iter()
            .map(|(name, read)| (name, read.settings))
            .collect(),
    }
}

fn read_settings(table: &mut Table<'_>, problems: &mut Problems) -> Read {
    let places = |keys: [&str; 2]| {
        let places = keys.iter().filter_map(|key| table.place(key).cloned());
        places.collect()
    };
    Read {
        freshness: places(["tag_ttl", "on_not_found"]),
        limits: places(["max_size", "max_idle"]),
        settings: RepositorySettings {
            tag_ttl: table.parsed("tag_ttl", problems, values::duration),
            tag_budget: table.parsed("tag_budget", problems, values::budget),
            forward_not_found: table.parsed("on_not_found", problems, values::on_not_found),
            frozen: table.boolean("frozen", problems),
            bytes_max: table.parsed("max_size", problems, values::size),
            idle_max: table.parsed("max_idle", problems, values::idle),
            evict: table.boolean("evict", problems),
        },
    }
}

impl Read {
    /// Refuses what has no effect beside another key, here or of the upstream.
    fn refuse_idle_words(
        &self,
        upstream: &RepositorySettings,
        thawed: bool,
        evicted: bool,
        problems: &mut Problems,
    ) {
        let whole = self.settings.clone().or(upstream.clone());
        if whole.frozen == Some(true) && !thawed {
            for place in &self.freshness {
                let problem = "has no effect where tags are frozen, and so never asked for again; \
                               remove it, or set frozen = false";
                problems.add(place.clone(), problem);
            }
        }
        if whole.evict == Some(false) && !evicted {
            for place in &self.limits {
                let problem = "has no effect where nothing is evicted; remove it, or set \
                               evict = true";
                problems.add(place.clone(), problem);
            }
        }
    }
}

/// The patterns of the upstream `id`, each of which must be able to match, and different from the
/// others.
pub(super) fn resolve(
    id: &UpstreamId,
    written: Vec<(Written<String>, RepositorySettings)>,
    problems: &mut Problems,
) -> BTreeMap<RepositoryPattern, RepositorySettings> {
    let mut resolved = BTreeMap::new();
    for (name, settings) in written {
        let place = name.place.clone();
        let Some(pattern) = name.parse(problems, |text| values::pattern(id, text)) else {
            continue;
        };
        match resolved.entry(pattern.value) {
            Entry::Vacant(entry) => {
                entry.insert(settings);
            }
            Entry::Occupied(entry) => {
                let problem = format!(
                    "stands for the same repositories as another, {}; write all about them in one \
                     place",
                    entry.key()
                );
                problems.add(place, problem);
            }
        }
    }
    resolved
}
