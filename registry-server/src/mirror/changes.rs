//! What is different between two configurations, in words.

use super::upstreams::{InUse, is_kept};
use crate::config::Config;

/// What is in effect now that was not before.
pub(super) fn changes(old: &Config, new: &Config, before: &InUse, after: &InUse) -> Vec<String> {
    let mut changed = Vec::new();
    for id in old.upstreams.keys() {
        if !new.upstreams.contains_key(id) {
            changed.push(format!("upstream {id} removed"));
        }
    }
    for (id, settings) in &new.upstreams {
        match old.upstreams.get(id) {
            None => changed.push(format!("upstream {id} added")),
            Some(old) => {
                let is_ours = after.contains_key(id);
                if is_ours && !is_kept(id, before, after) {
                    changed.push(format!("upstream {id} is reached in another way"));
                }
                if old.rules != settings.rules || old.repositories != settings.repositories {
                    changed.push(format!("rules of upstream {id}"));
                }
            }
        }
    }
    let general = [
        ("tag_ttl", old.tag_ttl == new.tag_ttl),
        (
            "max_size",
            old.retention.bytes_max == new.retention.bytes_max,
        ),
        (
            "watermarks",
            (old.retention.high_watermark, old.retention.low_watermark)
                == (new.retention.high_watermark, new.retention.low_watermark),
        ),
        ("max_idle", old.retention.idle_max == new.retention.idle_max),
        (
            "verify_every",
            old.verification.every == new.verification.every,
        ),
        (
            "verify_rate",
            old.verification.bytes_per_second == new.verification.bytes_per_second,
        ),
        ("admin token", old.admin_token == new.admin_token),
        (
            "files of the certificate",
            old.tls == new.tls || old.tls.is_some() != new.tls.is_some(),
        ),
    ];
    changed.extend(unlike(general));
    changed
}

/// What is asked for now, and was not when the mirror was started: what it cannot exchange.
pub(super) fn needs_restart(started: &Config, new: &Config) -> Vec<String> {
    let settings = [
        ("listen", started.listen == new.listen),
        ("admin_listen", started.admin_listen == new.admin_listen),
        ("tls_cert_file", started.tls.is_some() == new.tls.is_some()),
        ("tls_key_file", started.tls.is_some() == new.tls.is_some()),
        ("data_dir", started.data_dir == new.data_dir),
        ("reserve", started.reserve == new.reserve),
        (
            "default_upstream",
            started.default_upstream == new.default_upstream,
        ),
        ("sendfile", started.sendfile == new.sendfile),
        ("otlp_endpoint", started.otlp_endpoint == new.otlp_endpoint),
        ("log", started.log == new.log),
        ("log_format", started.log_format == new.log_format),
    ];
    unlike(settings).collect()
}

fn unlike<const N: usize>(settings: [(&str, bool); N]) -> impl Iterator<Item = String> {
    let unlike = settings.into_iter().filter(|(_, is_same)| !is_same);
    unlike.map(|(name, _)| name.to_owned())
}
