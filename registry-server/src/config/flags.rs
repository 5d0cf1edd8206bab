//! The command line's and the environment's names of the settings.

use std::ffi::OsString;
use std::path::PathBuf;

use super::layer::Texts;
use super::place::{Place, Problems, Written};
use super::retention::RetentionTexts;

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

    /// File with the certificate that clients are shown, and with those that lead to an authority;
    /// it is served by https:// then [env: REGISTRY_TLS_CERT_FILE] [default: none, plain HTTP]
    #[arg(long, value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,

    /// File with the key of this certificate [env: REGISTRY_TLS_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    tls_key_file: Option<PathBuf>,

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

    /// Most bytes to keep: 50GiB is 50 x 1024^3 bytes, 50GB is 50 x 1000^3; what was used longest
    /// ago makes room [env: REGISTRY_MAX_SIZE] [default: all of the disk but the reserve]
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,

    /// What is left free of the file system: a size, or a part of it such as 5%
    /// [env: REGISTRY_RESERVE] [default: 5%]
    #[arg(long, value_name = "SIZE")]
    reserve: Option<String>,

    /// Part of --max-size at which making room begins in the background
    /// [env: REGISTRY_HIGH_WATERMARK] [default: 98%]
    #[arg(long, value_name = "PERCENT")]
    high_watermark: Option<String>,

    /// Part of --max-size at which it ends [env: REGISTRY_LOW_WATERMARK] [default: 95%]
    #[arg(long, value_name = "PERCENT")]
    low_watermark: Option<String>,

    /// How long to keep what nobody pulls, for example 90d [env: REGISTRY_MAX_IDLE]
    /// [default: never, as long as there is room]
    #[arg(long, value_name = "DUR")]
    max_idle: Option<String>,

    /// How long after one check of all that is kept the next begins, or never
    /// [env: REGISTRY_VERIFY_EVERY] [default: 30d]
    #[arg(long, value_name = "DUR")]
    verify_every: Option<String>,

    /// Most bytes a second to read for it [env: REGISTRY_VERIFY_RATE] [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    verify_rate: Option<String>,

    /// File with the token that the admin API wants from everybody [env: REGISTRY_ADMIN_TOKEN_FILE]
    /// [default: none, and it answers this machine only]
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,

    /// Environment variable that holds this token [env: REGISTRY_ADMIN_TOKEN_ENV]
    #[arg(long, value_name = "NAME")]
    admin_token_env: Option<String>,

    /// Whether the kernel sends stored blobs by itself: true or false. Turn it off where the file
    /// system of the data folder cannot [env: REGISTRY_SENDFILE] [default: true]
    #[arg(long, value_name = "BOOL")]
    sendfile: Option<String>,

    /// Where traces are sent to, by OTLP over HTTP; only in builds with the feature `otlp`
    /// [env: REGISTRY_OTLP_ENDPOINT]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,

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
            tls_cert_file: self.tls_cert_file.map(path("--tls-cert-file")),
            tls_key_file: self.tls_key_file.map(path("--tls-key-file")),
            data_dir: self.data_dir.map(path("--data-dir")),
            upstreams: self.upstream.into_iter().map(flag("--upstream")).collect(),
            default_upstream: self.default_upstream.map(flag("--default-upstream")),
            tag_ttl: self.tag_ttl.map(flag("--tag-ttl")),
            retention: RetentionTexts {
                max_size: self.max_size.map(flag("--max-size")),
                reserve: self.reserve.map(flag("--reserve")),
                high_watermark: self.high_watermark.map(flag("--high-watermark")),
                low_watermark: self.low_watermark.map(flag("--low-watermark")),
                max_idle: self.max_idle.map(flag("--max-idle")),
                verify_every: self.verify_every.map(flag("--verify-every")),
                verify_rate: self.verify_rate.map(flag("--verify-rate")),
            },
            admin_token_file: self.admin_token_file.map(path("--admin-token-file")),
            admin_token_env: self.admin_token_env.map(flag("--admin-token-env")),
            sendfile: self.sendfile.map(flag("--sendfile")),
            otlp_endpoint: self.otlp_endpoint.map(flag("--otlp-endpoint")),
            log: self.log.map(flag("--log")),
            log_format: self.log_format.map(flag("--log-format")),
        };
        (texts, self.config.map(path("--config")))
    }
}

impl Flags {
    /// The configuration file that these name, or else the environment.
    pub(super) fn file(&self, lookup: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let by_variable = || lookup(CONFIG_VARIABLE).filter(|value| !value.is_empty());
        let by_flag = self.config.clone();
        by_flag.or_else(|| by_variable().map(PathBuf::from))
    }
}

/// The variable that names the configuration file.
const CONFIG_VARIABLE: &str = "REGISTRY_CONFIG";

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
        tls_cert_file: path("REGISTRY_TLS_CERT_FILE"),
        tls_key_file: path("REGISTRY_TLS_KEY_FILE"),
        data_dir: path("REGISTRY_DATA_DIR"),
        upstreams: upstreams.iter().flat_map(Written::words).collect(),
        default_upstream: text("REGISTRY_DEFAULT_UPSTREAM"),
        tag_ttl: text("REGISTRY_TAG_TTL"),
        retention: RetentionTexts {
            max_size: text("REGISTRY_MAX_SIZE"),
            reserve: text("REGISTRY_RESERVE"),
            high_watermark: text("REGISTRY_HIGH_WATERMARK"),
            low_watermark: text("REGISTRY_LOW_WATERMARK"),
            max_idle: text("REGISTRY_MAX_IDLE"),
            verify_every: text("REGISTRY_VERIFY_EVERY"),
            verify_rate: text("REGISTRY_VERIFY_RATE"),
        },
        admin_token_file: path("REGISTRY_ADMIN_TOKEN_FILE"),
        admin_token_env: text("REGISTRY_ADMIN_TOKEN_ENV"),
        sendfile: text("REGISTRY_SENDFILE"),
        otlp_endpoint: text("REGISTRY_OTLP_ENDPOINT"),
        log: text("REGISTRY_LOG"),
        log_format: text("REGISTRY_LOG_FORMAT"),
    };
    (texts, path(CONFIG_VARIABLE))
}
