//! The configuration file.
//!
//! The document is walked by hand rather than deserialised: serde stops at the first mistake and
//! knows no key or line for what is well formed and makes no sense, while a person wants all of
//! them, with both.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::budgets::BudgetsLayer;
use super::credentials;
use super::document::{Document, Table, cannot_read};
use super::layer::{Layer, Texts, UpstreamLayer, add_upstream};
use super::place::{Place, Problems, Written};
use super::proxy::ProxyLayer;
use super::repository::{self, RepositorySettings};
use super::retention::RetentionTexts;
use super::values;

/// Reads the configuration file at `path`; `env` looks up the variables that it names.
pub(super) fn read(
    path: Written<PathBuf>,
    env: &dyn Fn(&str) -> Option<OsString>,
    problems: &mut Problems,
) -> Layer {
    let text = match fs::read_to_string(&path.value) {
        Ok(text) => text,
        Err(error) => {
            problems.add(path.place, cannot_read(&path.value, &error));
            return Layer::default();
        }
    };
    let document = Document::new(&path.value, text);
    let mut found = Problems::default();
    let layer = match document.root(&mut found) {
        Some(root) => read_root(root, env, &mut found),
        None => Layer::default(),
    };
    problems.append_by_line(found);
    layer
}

fn read_root(
    mut root: Table<'_>,
    env: &dyn Fn(&str) -> Option<OsString>,
    problems: &mut Problems,
) -> Layer {
    let upstreams = root.tables("upstream", "[upstream.\"ghcr.io\"]", problems);
    let texts = Texts {
        listen: root.text("listen", problems),
        admin_listen: root.text("admin_listen", problems),
        tls_cert_file: root.path("tls_cert_file", problems),
        tls_key_file: root.path("tls_key_file", problems),
        data_dir: root.path("data_dir", problems),
        upstreams: Vec::new(),
        default_upstream: root.text("default_upstream", problems),
        tag_ttl: root.text("tag_ttl", problems),
        retention: RetentionTexts {
            max_size: root.text("max_size", problems),
            reserve: root.text("reserve", problems),
            high_watermark: root.text("high_watermark", problems),
            low_watermark: root.text("low_watermark", problems),
            max_idle: root.text("max_idle", problems),
            verify_every: root.text("verify_every", problems),
            verify_rate: root.text("verify_rate", problems),
        },
        admin_token_file: root.path("admin_token_file", problems),
        admin_token_env: root.text("admin_token_env", problems),
        sendfile: None,
        otlp_endpoint: root.text("otlp_endpoint", problems),
        log: root.text("log", problems),
        log_format: root.text("log_format", problems),
    };
    let sendfile = root.boolean("sendfile", problems);
    root.refuse_the_rest(problems);
    let mut layer = texts.read(problems);
    layer.sendfile = sendfile;
    for (name, mut table) in upstreams {
        let credentials = credentials::read(&mut table, env, problems);
        let rules = repository::read(&mut table, problems);
        if let Some(place) = table.inner_table() {
            let problem = "a name with dots is written in quotes, as in [upstream.\"ghcr.io\"]";
            problems.add(place.clone(), problem);
            continue;
        }
        let mut settings = read_upstream(name.place.clone(), table, problems);
        settings.credentials = Some(credentials);
        settings.rules = rules.of_all;
        if let Some(id) = name.parse(problems, values::upstream_id) {
            settings.repositories = repository::resolve(&id.value, rules.by_pattern, problems);
            add_upstream(&mut layer.upstreams, id.value, settings, problems);
        }
    }
    layer
}

fn read_upstream(place: Place, mut table: Table<'_>, problems: &mut Problems) -> UpstreamLayer {
    let cert = table.readable("client_cert_file", problems);
    let key = table.readable("client_key_file", problems);
    match (&cert, &key) {
        (Some(alone), None) => {
            problems.add(alone.place.clone(), "needs client_key_file beside it");
        }
        (None, Some(alone)) => {
            problems.add(alone.place.clone(), "needs client_cert_file beside it");
        }
        _ => {}
    }
    let settings = UpstreamLayer {
        place,
        endpoints: table.list("endpoints", problems, values::endpoint),
        ca_file: table.readable("ca_file", problems).map(|path| path.value),
        client_cert_file: cert.map(|path| path.value),
        client_key_file: key.map(|path| path.value),
        insecure_skip_verify: table.boolean("insecure_skip_verify", problems),
        proxies: ProxyLayer::read(&mut table, problems),
        budgets: BudgetsLayer::read(&mut table, problems),
        next_endpoint_on_not_found: table.boolean("next_endpoint_on_not_found", problems),
        private_redirects: table.boolean("private_redirects", problems),
        realms: table.list("realms", problems, values::realm),
        credentials: None,
        rules: RepositorySettings::default(),
        repositories: BTreeMap::new(),
    };
    table.refuse_the_rest(problems);
    settings
}
