//! The command line's and the environment's names of the settings.

use std::ffi::OsString;
use std::path::PathBuf;

use super::layer::Texts;
use super::place::{Place, Problems, Written};

/// The flags of `registry-server serve`.
///
/// Kept as text, so that a value is checked in one place whichever way it came.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Address that clients pull from [env: REGISTRY_LISTEN] [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,

    /// Address of health, metrics and administration; keep it off the network
    /// [env: REGISTRY_ADMIN_LISTEN] [default: 127.0.0.1:5001]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,

    /// Folder that holds everything cached; one process at a time
    /// [env: REGISTRY_DATA_DIR] [default: ./registry-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Registry to mirror, and where it answers, for example `ghcr.io=https://ghcr.io`; may be
    /// repeated. The big public ones are known without it [env: REGISTRY_UPSTREAM, separated by
    /// spaces]
    #[arg(long, value_name = "NS=URL[,URL...]")]
    upstream: Vec<String>,

    /// Registry meant where a request names none [env: REGISTRY_DEFAULT_UPSTREAM]
    /// [default: docker.io]
    #[arg(long, value_name = "NS")]
    default_upstream: Option<String>,

    /// How long a tag is served without asking its registry whether it moved; 0s asks on every
    /// pull, by one HEAD [env: REGISTRY_TAG_TTL] [default: 0s]
    #[arg(long, value_name = "DUR")]
    tag_ttl: Option<String>,

    /// Most bytes to keep; not supported yet by this version, which stops short of filling the disk
    /// [env: REGISTRY_MAX_SIZE]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,

    /// TOML file with the same settings in snake case, and a table for each upstream
    /// [env: REGISTRY_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// What to log: a level, or TARGET=LEVEL pairs such as info,access=off [env: REGISTRY_LOG]
    /// [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,

    /// How to log: text or json [env: REGISTRY_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Flags {
    /// What the flags say, and the configuration file that they name.
    pub(super) fn texts(self) -> (Texts, Option<Written<PathBuf>>) {
        let flag = |name: &'static str| move |value| Written::new(value, Place::Flag(name));
        let path = |name: &'static str| move |value| Written::new(value, Place::Flag(name));
        let texts = Texts {
            listen: self.listen.map(flag("--listen")),
            admin_listen: self.admin_listen.map(flag("--admin-listen")),
            data_dir: self.data_dir.map(path("--data-dir")),
            upstreams: self.upstream.into_iter().map(flag("--upstream")).collect(),
            default_upstream: self.default_upstream.map(flag("--default-upstream")),
            tag_ttl: self.tag_ttl.map(flag("--tag-ttl")),
            max_size: self.max_size.map(flag("--max-size")),
            log: self.log.map(flag("--log")),
            log_format: self.log_format.map(flag("--log-format")),
        };
        (texts, self.config.map(path("--config")))
    }
}

/// What the environment says, and the configuration file that it names. A variable that is empty
/// counts as not set: that is how compose files and charts leave one out.
pub(super) fn environment(
    lookup: impl Fn(&str) -> Option<OsString>,
    problems: &mut Problems,
) -> (Texts, Option<Written<PathBuf>>) {
    let raw = |name: &'static str| {
        let value = lookup(name).filter(|value| !value.is_empty())?;
        Some(Written::new(value, Place::Variable(name)))
    };
    let path = |name| raw(name).map(|written| written.map(PathBuf::from));
    let mut text = |name| {
        let Written { value, place } = raw(name)?;
        match value.into_string() {
            Ok(value) => Some(Written::new(value, place)),
            Err(_) => {
                problems.add(place, "is not UTF-8 text");
                None
            }
        }
    };
    let upstreams = text("REGISTRY_UPSTREAM");
    let texts = Texts {
        listen: text("REGISTRY_LISTEN"),
        admin_listen: text("REGISTRY_ADMIN_LISTEN"),
        data_dir: path("REGISTRY_DATA_DIR"),
        upstreams: upstreams.iter().flat_map(Written::words).collect(),
        default_upstream: text("REGISTRY_DEFAULT_UPSTREAM"),
        tag_ttl: text("REGISTRY_TAG_TTL"),
        max_size: text("REGISTRY_MAX_SIZE"),
        log: text("REGISTRY_LOG"),
        log_format: text("REGISTRY_LOG_FORMAT"),
    };
    (texts, path("REGISTRY_CONFIG"))
}
