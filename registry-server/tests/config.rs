//! Configuration: which layer wins, and what is said of every mistake.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use registry_core::testing::ScriptedUpstream;
use registry_core::{Repository, RetentionRule, UpstreamEntry, UpstreamId, UpstreamPolicy};
use registry_server::config::{AdminToken, Config, ConfigErrors, Flags, LogFilter, LogFormat};
use registry_server::testing::FixtureTls;
use registry_server::upstream::{Budgets, Proxies};
use registry_storage::Reserve;
use tempfile::TempDir;

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    flags: Flags,
}

/// A command line, an environment and a file, out of which a configuration is loaded.
#[derive(Default)]
struct Setting {
    flags: Vec<String>,
    env: Vec<(&'static str, String)>,
    file: Option<Vec<u8>>,
}

impl Setting {
    fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    fn file(mut self, text: impl AsRef<[u8]>) -> Self {
        self.file = Some(text.as_ref().to_owned());
        self
    }

    /// Loads it; the file is `registry.toml` in the folder that is given back.
    fn load(self) -> (Result<Config, ConfigErrors>, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let mut flags = self.flags;
        if let Some(text) = self.file {
            let path = folder.path().join("registry.toml");
            fs::write(&path, text).unwrap();
            flags.extend(["--config".to_owned(), path.to_str().unwrap().to_owned()]);
        }
        let flags = CommandLine::try_parse_from([vec!["test".to_owned()], flags].concat());
        let env = self.env;
        let lookup = |name: &str| {
            let found = env.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        (Config::load(flags.unwrap().flags, lookup), folder)
    }

    #[track_caller]
    fn config(self) -> Config {
        self.load().0.unwrap()
    }

    /// What is wrong, one a line, with the file called by its name alone.
    #[track_caller]
    fn errors(self) -> Vec<String> {
        let (loaded, folder) = self.load();
        let folder = format!("{}/", folder.path().display());
        let errors = loaded.unwrap_err().to_string().replace(&folder, "");
        errors.lines().map(str::to_owned).collect()
    }
}

fn id(text: &str) -> UpstreamId {
    UpstreamId::parse(text).unwrap()
}

fn endpoints(config: &Config, upstream: &str) -> Vec<String> {
    let endpoints = &config.upstreams[&id(upstream)].endpoints;
    endpoints.iter().map(|url| url.to_string()).collect()
}

#[test]
fn defaults() {
    let config = Setting::default().config();
    assert_eq!(config.listen.to_string(), "127.0.0.1:5000");
    assert_eq!(config.admin_listen.unwrap().to_string(), "127.0.0.1:5001");
    assert_eq!(config.data_dir, Path::new("registry-data"));
    assert_eq!(config.default_upstream, id("docker.io"));
    assert_eq!(config.tag_ttl, Duration::ZERO);
    assert_eq!(config.log, LogFilter::parse("info").unwrap());
    assert_eq!(config.log_format, LogFormat::Text);
    let upstreams: Vec<_> = config.upstreams.keys().map(UpstreamId::as_str).collect();
    assert_eq!(
        upstreams,
        [
            "docker.elastic.co",
            "docker.io",
            "gcr.io",
            "ghcr.io",
            "k8s.gcr.io",
            "lscr.io",
            "mcr.microsoft.com",
            "nvcr.io",
            "public.ecr.aws",
            "quay.io",
            "registry.gitlab.com",
            "registry.k8s.io",
        ]
    );
    let hub = endpoints(&config, "docker.io");
    assert_eq!(hub, ["https://registry-1.docker.io/"]);
    assert_eq!(endpoints(&config, "ghcr.io"), ["https://ghcr.io/"]);
    assert!(config.warnings().is_empty());
}

#[test]
fn a_known_upstream_that_is_tuned_keeps_whom_it_trusts_with_tokens() {
    let realms = |setting: Setting| setting.config().upstreams[&id("lscr.io")].realms.clone();
    assert_eq!(realms(Setting::default()), ["ghcr.io"]);
    let tuned = Setting::default().file("[upstream.\"lscr.io\"]\ntag_ttl = \"10s\"\n");
    assert_eq!(realms(tuned), ["ghcr.io"]);
    let own = Setting::default().file("[upstream.\"lscr.io\"]\nrealms = [\"auth.example.org\"]\n");
    assert_eq!(realms(own), ["auth.example.org"]);
    let elsewhere = Setting::default().flag("--upstream", "lscr.io=https://registry.example.org");
    assert!(realms(elsewhere).is_empty());
}

/// A setting under its three names, with a way to read it back.
struct Row {
    flag: &'static str,
    variable: &'static str,
    key: &'static str,
    /// One value for each: flag, environment, file.
    values: [&'static str; 3],
    read: fn(&Config) -> String,
}

const ROWS: [Row; 14] = [
    Row {
        flag: "--listen",
        variable: "REGISTRY_LISTEN",
        key: "listen",
        values: ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
        read: |config| config.listen.to_string(),
    },
    Row {
        flag: "--admin-listen",
        variable: "REGISTRY_ADMIN_LISTEN",
        key: "admin_listen",
        values: ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
        read: |config| config.admin_listen.unwrap().to_string(),
    },
    Row {
        flag: "--data-dir",
        variable: "REGISTRY_DATA_DIR",
        key: "data_dir",
        values: ["/a", "/b", "/c"],
        read: |config| config.data_dir.display().to_string(),
    },
    Row {
        flag: "--default-upstream",
        variable: "REGISTRY_DEFAULT_UPSTREAM",
        key: "default_upstream",
        values: ["ghcr.io", "quay.io", "gcr.io"],
        read: |config| config.default_upstream.to_string(),
    },
    Row {
        flag: "--tag-ttl",
        variable: "REGISTRY_TAG_TTL",
        key: "tag_ttl",
        values: ["1s", "5m", "2h"],
        read: |config| humantime::format_duration(config.tag_ttl).to_string(),
    },
    Row {
        flag: "--log",
        variable: "REGISTRY_LOG",
        key: "log",
        values: ["warn", "error", "debug"],
        read: |config| {
            let is = |level: &&str| config.log == LogFilter::parse(level).unwrap();
            let found = ["info", "warn", "error", "debug"].into_iter().find(is);
            found.unwrap().to_owned()
        },
    },
    Row {
        flag: "--max-size",
        variable: "REGISTRY_MAX_SIZE",
        key: "max_size",
        values: ["1GiB", "2GiB", "3GiB"],
        read: |config| match config.retention.bytes_max {
            Some(bytes) => format!("{}GiB", bytes >> 30),
            None => String::new(),
        },
    },
    Row {
        flag: "--reserve",
        variable: "REGISTRY_RESERVE",
        key: "reserve",
        values: ["1%", "2%", "3%"],
        read: |config| match config.reserve {
            Reserve::Percent(percent) => format!("{percent}%"),
            Reserve::Bytes(bytes) => format!("{bytes}B"),
        },
    },
    Row {
        flag: "--high-watermark",
        variable: "REGISTRY_HIGH_WATERMARK",
        key: "high_watermark",
        values: ["96%", "97%", "99%"],
        read: |config| format!("{}%", config.retention.high_watermark),
    },
    Row {
        flag: "--low-watermark",
        variable: "REGISTRY_LOW_WATERMARK",
        key: "low_watermark",
        values: ["1%", "2%", "3%"],
        read: |config| format!("{}%", config.retention.low_watermark),
    },
    Row {
        flag: "--max-idle",
        variable: "REGISTRY_MAX_IDLE",
        key: "max_idle",
        values: ["1day", "2days", "3days"],
        read: |config| duration_or_never(config.retention.idle_max),
    },
    Row {
        flag: "--verify-every",
        variable: "REGISTRY_VERIFY_EVERY",
        key: "verify_every",
        values: ["1day", "2days", "never"],
        read: |config| duration_or_never(config.verification.every),
    },
    Row {
        flag: "--verify-rate",
        variable: "REGISTRY_VERIFY_RATE",
        key: "verify_rate",
        values: ["1MiB", "2MiB", "3MiB"],
        read: |config| format!("{}MiB", config.verification.bytes_per_second >> 20),
    },
    Row {
        flag: "--admin-token-file",
        variable: "REGISTRY_ADMIN_TOKEN_FILE",
        key: "admin_token_file",
        values: ["/etc/hostname", "/etc/passwd", "/etc/group"],
        read: |config| {
            format!("{:?}", config.admin_token)
                .replace("File(\"", "")
                .replace("\")", "")
        },
    },
];

fn duration_or_never(duration: Option<Duration>) -> String {
    match duration {
        Some(duration) => humantime::format_duration(duration).to_string(),
        None => "never".to_owned(),
    }
}

#[test]
fn flags_override_the_environment_and_the_environment_the_file() {
    for row in &ROWS {
        let [flag, env, file] = row.values;
        // Each of the eight ways to set it or not in each of the three places.
        for bits in 0..8 {
            let mut setting = Setting::default();
            if bits & 1 != 0 {
                setting = setting.file(format!("{} = {file:?}", row.key));
            }
            if bits & 2 != 0 {
                setting = setting.env(row.variable, env);
            }
            if bits & 4 != 0 {
                setting = setting.flag(row.flag, flag);
            }
            let wanted = match bits {
                0 => (row.read)(&Config::default()),
                1 => file.to_owned(),
                2 | 3 => env.to_owned(),
                _ => flag.to_owned(),
            };
            let read = (row.read)(&setting.config());
            assert_eq!(read, wanted, "{} {bits:03b}", row.flag);
        }
    }
}

#[test]
fn the_log_format_has_three_names_too() {
    let (flag, variable) = ("--log-format", "REGISTRY_LOG_FORMAT");
    let format = |setting: Setting| setting.config().log_format;
    let file = |format| Setting::default().file(format!("log_format = \"{format}\""));
    assert_eq!(format(file("json")), LogFormat::Json);
    assert_eq!(format(file("json").env(variable, "text")), LogFormat::Text);
    assert_eq!(format(file("text").env(variable, "json")), LogFormat::Json);
    let env = |format| Setting::default().env(variable, format);
    assert_eq!(format(env("json").flag(flag, "text")), LogFormat::Text);
    assert_eq!(format(env("text").flag(flag, "json")), LogFormat::Json);
}

#[test]
fn sendfile_has_three_names_and_is_no_text_in_the_file() {
    let (flag, variable) = ("--sendfile", "REGISTRY_SENDFILE");
    let is_on = |setting: Setting| setting.config().sendfile;
    let file = |value| Setting::default().file(format!("sendfile = {value}"));
    assert!(is_on(Setting::default()));
    assert!(!is_on(file("false")));
    assert!(is_on(file("false").env(variable, "true")));
    assert!(!is_on(file("true").env(variable, "false")));
    let env = |value| Setting::default().env(variable, value);
    assert!(!is_on(env("true").flag(flag, "false")));
    assert!(is_on(env("false").flag(flag, "true")));
}

#[test]
fn an_empty_variable_is_not_set() {
    for row in &ROWS {
        let config = Setting::default().env(row.variable, "").config();
        assert_eq!((row.read)(&config), (row.read)(&Config::default()));
    }
    let config = Setting::default().env("REGISTRY_UPSTREAM", " \n").config();
    assert_eq!(config.upstreams.len(), Config::default().upstreams.len());
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let [by_env, by_flag] = ["env.toml", "flag.toml"].map(|name| folder.path().join(name));
    fs::write(&by_env, "tag_ttl = \"1s\"").unwrap();
    fs::write(&by_flag, "tag_ttl = \"2s\"").unwrap();
    let setting = || Setting::default().env("REGISTRY_CONFIG", by_env.to_str().unwrap());
    assert_eq!(setting().config().tag_ttl, Duration::from_secs(1));
    let setting = setting().flag("--config", by_flag.to_str().unwrap());
    assert_eq!(setting.config().tag_ttl, Duration::from_secs(2));
}

#[test]
fn upstreams_of_every_layer_come_together() {
    let config = Setting::default()
        .file(
            "[upstream.\"a.example\"]\n\
             endpoints = [\"https://file.example\"]\n\
             tag_ttl = \"1m\"\n\
             [upstream.\"b.example\"]\n\
             endpoints = [\"https://file.example\", \"http://10.0.0.1:5000/hub\"]\n\
             [upstream.\"quay.io\"]\n\
             on_not_found = \"forward\"\n",
        )
        .env(
            "REGISTRY_UPSTREAM",
            "a.example=https://env.example\n c.example=https://env.example  \
             GHCR.io=http://env.example",
        )
        .flag(
            "--upstream",
            "a.example=https://flag.example,https://two.example",
        )
        .flag("--upstream", "d.example=https://flag.example")
        .config();
    for (upstream, wanted) in [
        (
            "a.example",
            &["https://flag.example/", "https://two.example/"][..],
        ),
        (
            "b.example",
            &["https://file.example/", "http://10.0.0.1:5000/hub"],
        ),
        ("c.example", &["https://env.example/"]),
        ("d.example", &["https://flag.example/"]),
        ("ghcr.io", &["http://env.example/"]),
        ("quay.io", &["https://quay.io/"]),
        ("docker.io", &["https://registry-1.docker.io/"]),
    ] {
        assert_eq!(endpoints(&config, upstream), wanted, "{upstream}");
    }
    // What the file says beyond the endpoints stays.
    let a = &config.upstreams[&id("a.example")];
    assert_eq!(a.rules.tag_ttl, Some(Duration::from_secs(60)));
    assert!(config.upstreams[&id("quay.io")].rules.forward_not_found == Some(true));
}

#[test]
fn every_key_of_an_upstream_is_read() {
    let pems = tempfile::tempdir().unwrap();
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        fs::write(pems.path().join(name), "").unwrap();
    }
    let (config, folder) = Setting::default()
        .file(format!(
            "tag_ttl = \"10s\"\n\
             data_dir = \"data\"\n\
             [upstream.\"registry.example:5000\"]\n\
             endpoints = [\"https://registry.example:5000\"]\n\
             ca_file = \"{pems}/ca.pem\"\n\
             client_cert_file = \"{pems}/cert.pem\"\n\
             client_key_file = \"{pems}/key.pem\"\n\
             insecure_skip_verify = true\n\
             proxy = \"http://me:secret@proxy.example:3128\"\n\
             no_proxy = [\"*.direct.example\", \"10.0.0.0/8\"]\n\
             connect_budget = \"1s\"\n\
             headers_budget = \"2s\"\n\
             body_idle_budget = \"3s\"\n\
             total_budget = \"4s\"\n\
             next_endpoint_on_not_found = true\n\
             private_redirects = true\n\
             realms = [\"Auth.example\"]\n\
             tag_ttl = \"0s\"\n\
             tag_budget = \"500ms\"\n\
             on_not_found = \"forward\"\n\
             [upstream.\"ghcr.io\"]\n\
             ca_file = \"registry.toml\"\n",
            pems = pems.path().display()
        ))
        .load();
    let config = config.unwrap();
    let upstream = &config.upstreams[&id("registry.example:5000")];
    assert_eq!(upstream.ca_file, Some(pems.path().join("ca.pem")));
    assert_eq!(
        upstream.client_cert_file,
        Some(pems.path().join("cert.pem"))
    );
    assert_eq!(upstream.client_key_file, Some(pems.path().join("key.pem")));
    assert!(upstream.insecure_skip_verify);
    let proxies = Proxies::all("http://me:secret@proxy.example:3128".parse().unwrap());
    let except = ["direct.example", "10.0.0.0/8"].map(ToOwned::to_owned);
    assert_eq!(upstream.proxies, proxies.except(except));
    assert!(!format!("{config:?}").contains("secret"));
    let budgets = &upstream.budgets;
    let budgets = [
        budgets.connect,
        budgets.headers,
        budgets.body_idle,
        budgets.total,
    ];
    assert_eq!(budgets, [1, 2, 3, 4].map(Duration::from_secs));
    assert!(upstream.next_endpoint_on_not_found && upstream.private_redirects);
    assert_eq!(upstream.realms, ["auth.example"]);
    let policy = upstream.policy(config.tag_ttl);
    assert_eq!(policy.tag_ttl, Duration::ZERO);
    assert_eq!(policy.tag_budget, Duration::from_millis(500));
    assert!(policy.forward_not_found);

    let ghcr = &config.upstreams[&id("ghcr.io")];
    let policy = ghcr.policy(config.tag_ttl);
    assert_eq!(policy.tag_ttl, Duration::from_secs(10));
    assert_eq!(policy.tag_budget, Duration::from_secs(3));
    assert!(!policy.forward_not_found);

    // Relative paths are meant from the folder of the file.
    assert_eq!(config.data_dir, folder.path().join("data"));
    assert_eq!(ghcr.ca_file, Some(folder.path().join("registry.toml")));
}

#[test]
fn mistakes_in_flags_and_environment_name_them() {
    let (listen, admin) = ("REGISTRY_LISTEN", "REGISTRY_ADMIN_LISTEN");
    let (upstream, default) = ("REGISTRY_UPSTREAM", "REGISTRY_DEFAULT_UPSTREAM");
    for (flag, variable, value, wanted) in [
        (
            "--listen",
            listen,
            ":5000",
            "is not an IP address and a port",
        ),
        ("--admin-listen", admin, "localhost", "is not an IP address"),
        (
            "--tag-ttl",
            "REGISTRY_TAG_TTL",
            "5 parsecs",
            "is not a duration",
        ),
        (
            "--default-upstream",
            default,
            "a/b",
            "is not the name of a registry",
        ),
        (
            "--default-upstream",
            default,
            "a.example",
            "is not a configured upstream",
        ),
        (
            "--upstream",
            upstream,
            "a.example",
            "is not of the form NS=URL",
        ),
        (
            "--upstream",
            upstream,
            "a.example=a.example",
            "is not an http or https URL",
        ),
        (
            "--upstream",
            upstream,
            "a.example=https://me:secret@a",
            "holds a username",
        ),
        (
            "--max-size",
            "REGISTRY_MAX_SIZE",
            "10",
            "\"10\" is a size without a unit; write for example 50GiB",
        ),
        ("--max-size", "REGISTRY_MAX_SIZE", "0B", "is no room at all"),
        ("--max-size", "REGISTRY_MAX_SIZE", "10GiC", "is not a size"),
        (
            "--reserve",
            "REGISTRY_RESERVE",
            "100%",
            "is no part of a disk",
        ),
        ("--reserve", "REGISTRY_RESERVE", "5", "is no part of a disk"),
        (
            "--high-watermark",
            "REGISTRY_HIGH_WATERMARK",
            "0%",
            "is no part of max_size; write for example 95%",
        ),
        (
            "--low-watermark",
            "REGISTRY_LOW_WATERMARK",
            "9",
            "is no part",
        ),
        (
            "--max-idle",
            "REGISTRY_MAX_IDLE",
            "0s",
            "\"0s\" keeps nothing",
        ),
        ("--max-idle", "REGISTRY_MAX_IDLE", "90", "is not a duration"),
        (
            "--verify-every",
            "REGISTRY_VERIFY_EVERY",
            "0s",
            "never ends",
        ),
        ("--verify-every", "REGISTRY_VERIFY_EVERY", "no", "or never"),
        ("--verify-rate", "REGISTRY_VERIFY_RATE", "0B", "is no room"),
        (
            "--admin-token-file",
            "REGISTRY_ADMIN_TOKEN_FILE",
            "/nonexistent/token",
            "/nonexistent/token cannot be read: ",
        ),
        (
            "--admin-token-env",
            "REGISTRY_ADMIN_TOKEN_ENV",
            "secret",
            "names an environment variable that is not set",
        ),
        (
            "--sendfile",
            "REGISTRY_SENDFILE",
            "off",
            "\"off\" is neither true nor false",
        ),
        #[cfg(not(feature = "otlp"))]
        (
            "--otlp-endpoint",
            "REGISTRY_OTLP_ENDPOINT",
            "http://127.0.0.1:4318",
            "this build sends no traces",
        ),
        (
            "--log",
            "REGISTRY_LOG",
            "inof",
            "is neither a log level nor",
        ),
        (
            "--log-format",
            "REGISTRY_LOG_FORMAT",
            "xml",
            "is not a log format",
        ),
        (
            "--config",
            "REGISTRY_CONFIG",
            "/nonexistent/registry.toml",
            "cannot read /nonex",
        ),
    ] {
        for (name, errors) in [
            (flag, Setting::default().flag(flag, value).errors()),
            (variable, Setting::default().env(variable, value).errors()),
        ] {
            let [error] = &errors[..] else {
                panic!("{name} {value:?}: {errors:#?}");
            };
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
            assert!(error.contains(wanted), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
    let errors = Setting::default()
        .flag("--upstream", "docker.io=https://a.example")
        .flag("--upstream", "index.docker.io=https://b.example")
        .errors();
    let wanted = "--upstream: names the upstream docker.io a second time";
    assert!(errors[0].starts_with(wanted), "{errors:#?}");
}

#[test]
fn mistakes_in_the_file_name_key_and_line() {
    for (text, wanted) in [
        (
            "listen = 5000",
            "1: listen: is of type integer, and must be text in quotes",
        ),
        (
            "\n\nlisten = \"x\"",
            "3: listen: \"x\" is not an IP address and a port",
        ),
        (
            "admin_listen = \"\"",
            "1: admin_listen: \"\" is not an IP address",
        ),
        ("data_dir = []", "1: data_dir: is of type array"),
        (
            "tag_ttl = \"soon\"",
            "1: tag_ttl: \"soon\" is not a duration",
        ),
        ("tag_ttl = 5", "1: tag_ttl: is of type integer"),
        (
            "max_size = \"10 parsecs\"",
            "1: max_size: \"10 parsecs\" is not a size; write for example 50GiB (powers of two: \
             KiB, MiB, GiB, TiB) or 50GB (powers of ten: kB, MB, GB, TB)",
        ),
        ("max_size = 10", "1: max_size: is of type integer"),
        (
            "reserve = \"half\"",
            "1: reserve: \"half\" is no part of a disk; write for",
        ),
        (
            "high_watermark = \"101%\"",
            "1: high_watermark: \"101%\" is no part",
        ),
        (
            "low_watermark = \"90%\"\nhigh_watermark = \"80%\"",
            "1: low_watermark: 90% is more than high_watermark, which is 80%",
        ),
        (
            "max_idle = \"long\"",
            "1: max_idle: \"long\" is not a duration",
        ),
        (
            "verify_every = \"0s\"",
            "1: verify_every: \"0s\" never ends",
        ),
        (
            "verify_rate = \"16\"",
            "1: verify_rate: \"16\" is a size without a unit",
        ),
        (
            "admin_token_file = \"no.txt\"",
            "1: admin_token_file: no.txt cannot be read: ",
        ),
        (
            "admin_token_file = \"registry.toml\"\nadmin_token_env = \"X\"",
            "2: admin_token_env: is a second token",
        ),
        (
            "admin_token_env = \"X\"",
            "1: admin_token_env: names an environment variable that is not set",
        ),
        (
            "sendfile = \"false\"",
            "1: sendfile: is of type string, and must be true or false",
        ),
        #[cfg(not(feature = "otlp"))]
        (
            "otlp_endpoint = \"http://127.0.0.1:4318\"",
            "1: otlp_endpoint: this build sends no traces",
        ),
        #[cfg(feature = "otlp")]
        (
            "otlp_endpoint = \"127.0.0.1:4318\"",
            "1: otlp_endpoint: \"127.0.0.1:4318\" is not an http or https URL",
        ),
        (
            "log = \"inof\"",
            "1: log: \"inof\" is neither a log level nor",
        ),
        (
            "log_format = \"xml\"",
            "1: log_format: \"xml\" is not a log format",
        ),
        (
            "default_upstream = \"a/b\"",
            "1: default_upstream: \"a/b\" is not the name",
        ),
        (
            "default_upstream = \"a.example\"",
            "1: default_upstream: \"a.example\" is not a configured upstream; add --upstream \
             a.example=https://a.example, or name one of docker.elastic.co, docker.io, ",
        ),
        (
            "# fine\nlisen = \"x\"",
            "2: lisen: unknown key; there are admin_listen, ",
        ),
        (
            "upstream = \"x\"",
            "1: upstream: is of type string, and must be tables",
        ),
        (
            "upstream.\"ghcr.io\" = \"x\"",
            "1: upstream.\"ghcr.io\": is of type string",
        ),
        (
            "[upstreams.\"ghcr.io\"]",
            "1: upstreams: unknown key; there are ",
        ),
        (
            "[upstream.ghcr.io]",
            "1: upstream.ghcr.io: a name with dots is written in quotes, as in [upstream.\"gh",
        ),
        (
            "[upstream.\"a.example\"]",
            "1: upstream.\"a.example\": needs endpoints; write for example endpoints = \
             [\"https://a.example\"]",
        ),
        (
            "[upstream.\"a/b\"]\nendpoints = [\"https://a\"]",
            "1: upstream.\"a/b\": \"a/b\" is not the name of a registry",
        ),
        (
            "[upstream.\"docker.io\"]\n[upstream.\"index.docker.io\"]",
            "2: upstream.\"index.docker.io\": names the upstream docker.io a second time",
        ),
    ] {
        assert_file_error(text, wanted);
    }
}

#[test]
fn mistakes_in_an_upstream_name_key_and_line() {
    for (text, line, wanted) in [
        (
            "endpoint = [\"https://a\"]",
            3,
            "endpoint: unknown key; there are body_idle_budget, ca_file, ",
        ),
        (
            "endpoints = \"x\"",
            3,
            "endpoints: is of type string, and must be a list",
        ),
        ("endpoints = []", 3, "endpoints: is empty"),
        (
            "endpoints = [\n  \"https://a\",\n  \"ftp://x\",\n]",
            5,
            "endpoints[1]: \"ftp://x\" is not an http or https URL; write for example \
             https://ghcr.io",
        ),
        ("endpoints = [5]", 3, "endpoints[0]: is of type integer"),
        (
            "ca_file = \"no.pem\"",
            3,
            "ca_file: cannot read no.pem: No such file",
        ),
        (
            "client_cert_file = \"registry.toml\"",
            3,
            "client_cert_file: needs client_key_file",
        ),
        (
            "client_key_file = \"registry.toml\"",
            3,
            "client_key_file: needs client_cert_file",
        ),
        (
            "insecure_skip_verify = 1",
            3,
            "insecure_skip_verify: is of type integer",
        ),
        (
            "proxy = \"proxy:3128\"",
            3,
            "proxy: no proxy: its scheme is none of http, https",
        ),
        (
            "proxy = \"http://me:secret@proxy/path\"",
            3,
            "proxy: no proxy: it has something after the host",
        ),
        (
            "no_proxy = [\"a\", \"https://b\"]",
            3,
            "no_proxy[1]: \"https://b\" is neither a domain",
        ),
        (
            "no_proxy = [\"a:80\"]",
            3,
            "no_proxy[0]: \"a:80\" is neither a domain",
        ),
        (
            "no_proxy = [\"10.0.0.0/33\"]",
            3,
            "no_proxy[0]: \"10.0.0.0/33\" is neither a domain",
        ),
        (
            "connect_budget = \"0s\"",
            3,
            "connect_budget: \"0s\" leaves no time",
        ),
        (
            "headers_budget = \"5s\"\ntotal_budget = \"4s\"",
            3,
            "headers_budget: 5s is more than total_budget, which is 4s",
        ),
        (
            "connect_budget = \"1m\"\nheaders_budget = \"20s\"",
            3,
            "connect_budget: 1m is more than headers_budget, which is 20s",
        ),
        (
            "realms = [\"https://a\"]",
            3,
            "realms[0]: \"https://a\" is not a host name",
        ),
        ("tag_ttl = \"1\"", 3, "tag_ttl: \"1\" is not a duration"),
        (
            "tag_budget = \"0s\"",
            3,
            "tag_budget: \"0s\" leaves no time",
        ),
        (
            "on_not_found = \"ignore\"",
            3,
            "on_not_found: \"ignore\" is neither",
        ),
        ("frozen = \"yes\"", 3, "frozen: is of type string"),
        ("evict = 0", 3, "evict: is of type integer"),
        (
            "max_size = \"1\"",
            3,
            "max_size: \"1\" is a size without a unit",
        ),
        ("max_idle = \"0s\"", 3, "max_idle: \"0s\" keeps nothing"),
        (
            "frozen = true\ntag_ttl = \"1h\"",
            4,
            "tag_ttl: has no effect where tags are frozen",
        ),
        (
            "on_not_found = \"forward\"\nfrozen = true",
            3,
            "on_not_found: has no effect where tags are frozen",
        ),
        (
            "evict = false\nmax_idle = \"1h\"",
            4,
            "max_idle: has no effect where nothing is evicted",
        ),
        (
            "repository = 1",
            3,
            "repository: is of type integer, and must be tables: [up",
        ),
        (
            "[upstream.\"ghcr.io\".repository.org.app]\ntag_ttl = \"1h\"",
            3,
            "repository.org.app: a pattern with dots or slashes is written in quotes, as in \
             [upstream.\"ghcr.io\".repository.\"org/*\"]",
        ),
        (
            "[upstream.\"ghcr.io\".repository.\"org/*\"]",
            3,
            "repository.\"org/*\": says nothing; write for example tag_ttl = \"1h\"",
        ),
        (
            "[upstream.\"ghcr.io\".repository.\"org/*\"]\ntag_tll = \"1h\"",
            4,
            "repository.\"org/*\".tag_tll: unknown key; there are evict, frozen, max_idle, \
             max_size, on_not_found, tag_budget, tag_ttl",
        ),
        (
            "[upstream.\"ghcr.io\".repository.\"org/a**\"]\nevict = false",
            3,
            "repository.\"org/a**\": \"org/a**\" recursive wildcards must form a single path",
        ),
        (
            "[upstream.\"ghcr.io\".repository.\"org/App\"]\nevict = false",
            3,
            "repository.\"org/App\": \"org/App\" can match no repository: 'A' is in no \
             repository's name; write for example org/app, org/* or org/**",
        ),
        (
            "repository.\"a\" = { evict = false, max_size = \"1GB\" }",
            3,
            "repository.a.max_size: has no effect where nothing is evicted",
        ),
        (
            "frozen = true\nrepository.\"a\" = { tag_ttl = \"1h\" }",
            4,
            "repository.a.tag_ttl: has no effect where tags are frozen",
        ),
    ] {
        assert_file_error(
            &format!("# a comment\n[upstream.\"ghcr.io\"]\n{text}\n"),
            &format!("{line}: upstream.\"ghcr.io\".{wanted}"),
        );
    }
}

#[track_caller]
fn assert_file_error(text: &str, wanted: &str) {
    let errors = Setting::default().file(text).errors();
    let [error] = &errors[..] else {
        panic!("{text:?}: {errors:#?}");
    };
    let wanted = format!("registry.toml:{wanted}");
    assert!(
        error.starts_with(&wanted),
        "{text:?} gives\n{error}\nnot\n{wanted}"
    );
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    for text in [
        "listen = \"127.0.0.1:1\"\nlisten",
        "\nlisten = 127.0.0.1",
        "log = \"info\"\nlog = \"warn\"",
    ] {
        let errors = Setting::default().file(text).errors();
        assert!(errors[0].starts_with("registry.toml:2: "), "{errors:#?}");
    }
    let errors = Setting::default().file(b"listen = \"\xff\"").errors();
    assert!(
        errors[0].starts_with("--config: cannot read "),
        "{errors:#?}"
    );
}

#[test]
fn every_mistake_is_reported() {
    let errors = Setting::default()
        .flag("--listen", "x")
        .env("REGISTRY_TAG_TTL", "x")
        .file(
            "tag_ttl = \"x\"\n\
             [upstream.\"ghcr.io\"]\n\
             username = \"me\"\n\
             endpoints = [\"x\", \"y\"]\n\
             [upstream.\"b.example\"]\n\
             [upstream.\"a.example\"]\n\
             endpoint = [\"https://a.example\"]\n",
        )
        .errors();
    for (error, place) in errors.iter().zip([
        "--listen: ",
        "REGISTRY_TAG_TTL: ",
        "registry.toml:1: tag_ttl: ",
        "registry.toml:3: upstream.\"ghcr.io\".username: ",
        "registry.toml:4: upstream.\"ghcr.io\".endpoints[0]: ",
        "registry.toml:4: upstream.\"ghcr.io\".endpoints[1]: ",
        "registry.toml:7: upstream.\"a.example\".endpoint: ",
        "registry.toml:6: upstream.\"a.example\": ",
        "registry.toml:5: upstream.\"b.example\": ",
    ]) {
        assert!(error.starts_with(place), "{error}\nnot {place}");
    }
    assert_eq!(errors.len(), 9, "{errors:#?}");
}

#[test]
fn two_listeners_have_two_addresses() {
    let errors = Setting::default()
        .flag("--listen", "127.0.0.1:5001")
        .errors();
    assert!(errors[0].starts_with("--listen: "), "{errors:#?}");
    let same = |address| {
        let setting = Setting::default().flag("--listen", address);
        setting.env("REGISTRY_ADMIN_LISTEN", address)
    };
    let errors = same("10.0.0.1:80").errors();
    assert!(
        errors[0].starts_with("REGISTRY_ADMIN_LISTEN: "),
        "{errors:#?}"
    );
    assert!(errors[0].contains("would share 10.0.0.1:80"), "{errors:#?}");
    // Two free ports are two ports.
    assert!(same("127.0.0.1:0").config().admin_listen.is_some());
}

#[test]
fn a_value_that_is_overridden_must_be_right_all_the_same() {
    let setting = Setting::default().flag("--tag-ttl", "1s");
    let errors = setting.env("REGISTRY_TAG_TTL", "x").errors();
    assert!(errors[0].starts_with("REGISTRY_TAG_TTL: "), "{errors:#?}");
}

#[test]
fn what_is_seldom_meant_is_warned_of() {
    let flag = |name, value| Setting::default().flag(name, value);
    let upstream = |url: &str| Setting::default().flag("--upstream", &format!("a.example={url}"));
    for (setting, wanted) in [
        (flag("--admin-listen", "0.0.0.0:5001"), Some("0.0.0.0:5001")),
        (
            flag("--admin-listen", "0.0.0.0:5001")
                .env("REGISTRY_ADMIN_TOKEN_ENV", "TOKEN")
                .env("TOKEN", "secret"),
            None,
        ),
        (
            Setting::default()
                .file("max_size = \"1GB\"\n[upstream.\"ghcr.io\"]\nmax_size = \"1GiB\""),
            Some("the max_size of ghcr.io is more than the max_size, which ends it first"),
        ),
        (
            Setting::default().file(
                "[upstream.\"ghcr.io\"]\nmax_size = \"1GB\"\n\
                 [upstream.\"ghcr.io\".repository.\"a\"]\nmax_size = \"2GB\"",
            ),
            Some("of ghcr.io/a is more than the max_size of ghcr.io,"),
        ),
        (
            Setting::default()
                .file("max_size = \"1GB\"\n[upstream.\"ghcr.io\"]\nmax_size = \"1GB\""),
            None,
        ),
        (flag("--admin-listen", "[::1]:5001"), None),
        (flag("--listen", "0.0.0.0:5000"), None),
        (upstream("http://a.example"), Some("plain HTTP")),
        (upstream("http://1.1.1.1"), Some("plain HTTP")),
        (upstream("https://a.example"), None),
        (upstream("http://127.0.0.1:1"), None),
        (upstream("http://10.0.0.1"), None),
        (upstream("http://[fd00::1]"), None),
        (upstream("http://registry:5000"), None),
        (upstream("http://registry.ns.svc.cluster.local"), None),
        (
            Setting::default().file("upstream.\"ghcr.io\".insecure_skip_verify = true"),
            Some("not verified"),
        ),
    ] {
        let warnings = setting.config().warnings();
        match wanted {
            None => assert!(warnings.is_empty(), "{warnings:?}"),
            Some(wanted) => {
                assert_eq!(warnings.len(), 1, "{warnings:?}");
                assert!(warnings[0].contains(wanted), "{warnings:?}");
            }
        }
    }
}

#[test]
fn sizes_are_powers_of_ten_or_of_two() {
    for (text, bytes) in [
        ("1B", 1),
        ("50GB", 50_000_000_000),
        ("50G", 50_000_000_000),
        ("50GiB", 50 << 30),
        ("50 Gi", 50 << 30),
        ("1.5tib", 3 << 39),
        ("100 MB", 100_000_000),
    ] {
        let config = Setting::default().flag("--max-size", text).config();
        assert_eq!(config.retention.bytes_max, Some(bytes), "{text}");
    }
    for (text, reserve) in [
        ("0%", Reserve::Percent(0)),
        ("12 %", Reserve::Percent(12)),
        ("1GiB", Reserve::Bytes(1 << 30)),
    ] {
        let config = Setting::default().flag("--reserve", text).config();
        assert_eq!(config.reserve, reserve, "{text}");
    }
}

#[test]
fn watermarks_that_are_not_set_make_room_for_those_that_are() {
    for (keys, high, low) in [
        ("", 98, 95),
        ("high_watermark = \"90%\"", 90, 90),
        ("low_watermark = \"99%\"", 99, 99),
        ("low_watermark = \"50%\"", 98, 50),
        ("low_watermark = \"7%\"\nhigh_watermark = \"8%\"", 8, 7),
    ] {
        let retention = Setting::default().file(keys).config().retention;
        let resolved = (retention.high_watermark, retention.low_watermark);
        assert_eq!(resolved, (high, low), "{keys}");
    }
}

#[test]
fn never_is_a_time() {
    let config = Setting::default()
        .file(
            "max_idle = \"90d\"\nverify_every = \"never\"\nverify_rate = \"1MB\"\n\
             [upstream.\"ghcr.io\"]\nmax_idle = \"never\"",
        )
        .config();
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(config.retention.idle_max, Some(90 * day));
    assert_eq!(config.verification.every, None);
    assert_eq!(config.verification.bytes_per_second, 1_000_000);
    let ghcr = &config.upstreams[&id("ghcr.io")];
    assert_eq!(ghcr.retention().idle_max, Some(Duration::MAX));
    let config = Setting::default()
        .file("max_idle = \"90d\"")
        .flag("--max-idle", "never");
    assert_eq!(config.config().retention.idle_max, None);
}

#[test]
fn the_admin_token_is_named_and_not_told() {
    let file = || Setting::default().file("admin_token_file = \"registry.toml\"");
    let (loaded, folder) = file().load();
    let path = folder.path().join("registry.toml");
    assert_eq!(loaded.unwrap().admin_token, AdminToken::File(path));
    // A layer that is over another names the one source.
    let config = file()
        .env("REGISTRY_ADMIN_TOKEN_ENV", "TOKEN")
        .env("TOKEN", "secret")
        .config();
    assert_eq!(config.admin_token, AdminToken::Value("secret".into()));
    assert!(!format!("{config:?}").contains("secret"));
    assert!(!Setting::default().config().admin_token.is_required());
}

#[test]
fn the_most_specific_pattern_decides_and_its_upstream_says_the_rest() {
    let config = Setting::default()
        .file(
            "tag_ttl = \"1m\"\n\
             [upstream.\"docker.io\"]\n\
             on_not_found = \"forward\"\n\
             max_size = \"9GB\"\n\
             max_idle = \"30d\"\n\
             [upstream.\"docker.io\".repository.\"**\"]\n\
             tag_budget = \"1s\"\n\
             [upstream.\"docker.io\".repository.\"*\"]\n\
             tag_ttl = \"1h\"\n\
             [upstream.\"docker.io\".repository.\"alpine\"]\n\
             frozen = true\n\
             max_size = \"1GB\"\n\
             [upstream.\"docker.io\".repository.\"org/**\"]\n\
             evict = false\n\
             [upstream.\"docker.io\".repository.\"org/*\"]\n\
             max_idle = \"1d\"\n",
        )
        .config();
    let hub = &config.upstreams[&id("docker.io")];
    let mut entry = UpstreamEntry::new(ScriptedUpstream::new());
    entry.policy = hub.policy(config.tag_ttl);
    entry.repositories = hub.repository_rules(config.tag_ttl);
    let patterns: Vec<_> = entry
        .repositories
        .iter()
        .map(|it| it.pattern.as_str())
        .collect();
    let sorted = ["library/alpine", "library/*", "org/*", "org/**", "**"];
    assert_eq!(patterns, sorted);
    let seconds = Duration::from_secs;
    let day = 24 * 60 * 60;
    for (repository, ttl, budget, frozen, bytes_max, idle_max, exempt) in [
        (
            "library/alpine",
            60,
            3,
            true,
            Some(1_000_000_000),
            30,
            false,
        ),
        ("library/other", 3600, 3, false, None, 30, false),
        ("org/app", 60, 3, false, None, 1, false),
        ("org/team/app", 60, 3, false, None, 30, true),
        ("a/b", 60, 1, false, None, 30, false),
    ] {
        let repository = Repository::parse(repository).unwrap();
        let policy = entry.policy(&repository);
        let expected = UpstreamPolicy {
            tag_ttl: seconds(ttl),
            tag_budget: seconds(budget),
            forward_not_found: true,
            frozen,
        };
        assert_eq!(*policy, expected, "{repository}");
        let retention = RetentionRule {
            bytes_max,
            idle_max: Some(seconds(idle_max * day)),
            exempt,
        };
        let rule = entry.rule(&repository).unwrap();
        assert_eq!(rule.retention, retention, "{repository}");
    }
    // The limit of all of it is the upstream's alone.
    assert_eq!(hub.retention().bytes_max, Some(9_000_000_000));
}

#[test]
fn one_pattern_is_written_once() {
    assert_file_error(
        "[upstream.\"docker.io\".repository]\n\
         \"alpine\" = { frozen = true }\n\
         \"library/alpine\" = { evict = false }\n",
        "3: upstream.\"docker.io\".repository.\"library/alpine\": stands for the same \
         repositories as another, library/alpine; write all about them in one place",
    );
}

#[test]
fn what_a_pattern_takes_back_has_an_effect_again() {
    Setting::default()
        .file(
            "[upstream.\"ghcr.io\"]\nfrozen = true\ntag_ttl = \"1h\"\nevict = false\n\
             max_idle = \"1d\"\n\
             [upstream.\"ghcr.io\".repository.\"org/*\"]\nfrozen = false\nevict = true\n",
        )
        .config();
}

#[test]
fn budgets_that_are_not_set_make_room_for_those_that_are() {
    let default = Budgets::default();
    let [connect, headers, total] = [default.connect, default.headers, default.total];
    let second = Duration::from_secs(1);
    for (keys, expected) in [
        ("", [connect, headers, total]),
        (
            "connect_budget = \"20s\"",
            [20 * second, 20 * second, total],
        ),
        ("headers_budget = \"1s\"", [second, second, total]),
        (
            "headers_budget = \"1m\"",
            [connect, 60 * second, 60 * second],
        ),
        ("total_budget = \"2s\"", [2 * second; 3]),
        ("connect_budget = \"1m\"", [60 * second; 3]),
    ] {
        let file = format!("[upstream.\"quay.io\"]\n{keys}\n");
        let config = Setting::default().file(file).config();
        let budgets = &config.upstreams[&id("quay.io")].budgets;
        let resolved = [budgets.connect, budgets.headers, budgets.total];
        assert_eq!(resolved, expected, "{keys}");
    }
}

#[test]
fn the_environments_proxies_are_for_those_without_their_own() {
    let file = "[upstream.\"quay.io\"]\n\
                proxy = \"socks5h://own.example\"\n\
                [upstream.\"ghcr.io\"]\n\
                proxy = \"direct\"\n\
                [upstream.\"gcr.io\"]\n\
                no_proxy = [\"pkg.dev\"]\n";
    let proxy = |url: &str| Some(url.parse().unwrap());
    let except = |proxies: Proxies, hosts: &[&str]| {
        proxies.except(hosts.iter().map(|host| (*host).to_owned()))
    };
    for (env, http, https, direct) in [
        (&[][..], None, None, &[][..]),
        (
            &[("HTTPS_PROXY", "http://a.example:3128"), ("HTTP_PROXY", "")],
            None,
            proxy("http://a.example:3128"),
            &[],
        ),
        (
            // As many write it, and most programs take it.
            &[
                ("http_proxy", "b.example:3128"),
                ("no_proxy", "c.example, 10.0.0.0/8,"),
            ],
            proxy("http://b.example:3128"),
            None,
            &["c.example", "10.0.0.0/8"],
        ),
        (
            &[
                ("ALL_PROXY", "socks5://d.example"),
                ("https_proxy", "http://me:secret@e.example"),
                ("HTTPS_PROXY", "http://f.example"),
                ("NO_PROXY", "*"),
            ],
            proxy("socks5://d.example"),
            proxy("http://f.example"),
            &["*"],
        ),
    ] {
        let setting = || {
            let env = env.iter();
            env.fold(Setting::default(), |setting, (name, value)| {
                setting.env(name, value)
            })
        };
        let config = setting().file(file).config();
        let of = |name| &config.upstreams[&id(name)].proxies;
        let environment = Proxies::by_scheme(http, https);
        assert_eq!(
            *of("docker.io"),
            except(environment.clone(), direct),
            "{env:?}"
        );
        assert_eq!(*of("gcr.io"), except(environment, &["pkg.dev"]), "{env:?}");
        assert_eq!(*of("ghcr.io"), Proxies::default(), "{env:?}");
        let own = Proxies::all("socks5h://own.example".parse().unwrap());
        assert_eq!(*of("quay.io"), own, "{env:?}");
        assert!(!format!("{config:?}").contains("secret"));
    }
    for (name, value) in [
        ("HTTPS_PROXY", "http://me:secret@proxy/path"),
        ("ALL_PROXY", "socks4://me:secret@proxy"),
        ("http_proxy", "me:secret@"),
    ] {
        let errors = Setting::default().env(name, value).errors().join("\n");
        assert!(
            errors.starts_with(&format!("{name}: no proxy: ")),
            "{errors}"
        );
        assert!(!errors.contains("secret"), "{errors}");
    }
}

const README: &str = include_str!("../../README.md");

/// A folder with everything that the README's configuration files name.
fn described_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tls = FixtureTls::generate();
    for (name, text) in [
        ("ca.pem", ""),
        ("password", "a password"),
        ("admin-token", "a token"),
        ("tls.pem", &*tls.server_cert_pem),
        ("tls-key.pem", &*tls.server_key_pem),
        ("hub-token", "a token"),
        ("config.json", "{\"auths\":{}}"),
        ("docker-credential-ecr-login", ""),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[test]
fn every_configuration_in_the_readme_can_be_pasted() {
    let folder = described_folder();
    let path = folder.path().to_str().unwrap();
    let of_clients = ["[host.", "[[registry]]"];
    let mut with_credentials = 0;
    let mut pasted = 0;
    for block in README.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        if of_clients.iter().any(|start| text.starts_with(start)) {
            continue;
        }
        let setting = Setting::default()
            .file(text.replace("/etc/registry-server", path))
            .env("QUAY_TOKEN", "a token")
            .env("PATH", path);
        let config = setting.config();
        let mut upstreams = config.upstreams.values();
        with_credentials += usize::from(upstreams.any(|it| !it.credentials.is_empty()));
        pasted += 1;
    }
    assert_eq!((pasted, with_credentials), (9, 2));
}

/// A folder with two certificates and their keys: `cert.pem`, `key.pem`, `cert-2.pem`, `key-2.pem`.
fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for end in ["", "-2"] {
        let fixture = FixtureTls::generate();
        let file = |kind: &str| folder.path().join(format!("{kind}{end}.pem"));
        fs::write(file("cert"), fixture.server_cert_pem).unwrap();
        fs::write(file("key"), fixture.server_key_pem).unwrap();
    }
    folder
}

#[test]
fn a_certificate_has_three_names_and_the_higher_layer_wins() {
    let folder = certificates();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let both = |end: &str| {
        let [cert, key] = ["cert", "key"].map(|kind| file(&format!("{kind}{end}.pem")));
        format!("tls_cert_file = {cert:?}\ntls_key_file = {key:?}")
    };
    assert!(Setting::default().config().tls.is_none());
    let by_file = || Setting::default().file(both(""));
    let tls = by_file().config().tls.unwrap();
    assert_eq!(tls.cert_file, folder.path().join("cert.pem"));
    let by_env = || {
        by_file()
            .env("REGISTRY_TLS_CERT_FILE", &file("cert-2.pem"))
            .env("REGISTRY_TLS_KEY_FILE", &file("key-2.pem"))
    };
    let tls = by_env().config().tls.unwrap();
    assert_eq!(tls.key_file, folder.path().join("key-2.pem"));
    let by_flag = by_env()
        .flag("--tls-cert-file", &file("cert.pem"))
        .flag("--tls-key-file", &file("key.pem"));
    let tls = by_flag.config().tls.unwrap();
    assert_eq!(tls.key_file, folder.path().join("key.pem"));
}

#[test]
fn what_is_wrong_with_a_certificate_is_told_where_it_is_named() {
    let folder = certificates();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let alone = Setting::default().flag("--tls-cert-file", &file("cert.pem"));
    assert_eq!(
        alone.errors(),
        ["--tls-cert-file: needs tls_key_file beside it"]
    );
    let alone = Setting::default().env("REGISTRY_TLS_KEY_FILE", &file("key.pem"));
    assert_eq!(
        alone.errors(),
        ["REGISTRY_TLS_KEY_FILE: needs tls_cert_file beside it"]
    );
    let unlike = Setting::default()
        .flag("--tls-cert-file", &file("cert.pem"))
        .env("REGISTRY_TLS_KEY_FILE", &file("key-2.pem"));
    let [error] = &unlike.errors()[..] else {
        panic!("one mistake")
    };
    assert!(error.starts_with("REGISTRY_TLS_KEY_FILE: "), "{error}");
    assert!(
        error.contains("holds the key of another certificate"),
        "{error}"
    );
    // A relative path is meant from the folder of the file that names it.
    let absent = Setting::default().file("tls_cert_file = \"no.pem\"\ntls_key_file = \"no.key\"");
    let [error] = &absent.errors()[..] else {
        panic!("one mistake")
    };
    assert!(
        error.starts_with("registry.toml:1: tls_cert_file: no.pem cannot be read: "),
        "{error}"
    );
}

/// The keys that an unknown one is told there are.
fn known_keys(table: &str) -> Vec<String> {
    let text = format!("{table}\nunknown_key = 1\n");
    let errors = Setting::default().file(text).errors();
    let keys = errors
        .iter()
        .find_map(|error| error.split_once("unknown key; there are "));
    let (_, keys) = keys.unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn the_readme_has_a_row_for_every_key_and_no_other() {
    let mut keys = known_keys("");
    keys.extend(known_keys("[upstream.\"a.example\"]"));
    keys.extend(known_keys("[upstream.\"a.example\".repository.\"**\"]"));
    // What the tables are in.
    keys.retain(|key| !["upstream", "credentials", "repository"].contains(&key.as_str()));
    keys.sort();
    keys.dedup();
    let (_, table) = README.split_once("| Key | What it does |").unwrap();
    let rows = table.split("\n\n").next().unwrap().lines().skip(2);
    let first_cells = rows.map(|row| row.split('|').nth(1).unwrap());
    let described = first_cells.filter(|cell| !cell.contains("**"));
    let words = described.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut described: Vec<_> = words.map(str::to_owned).collect();
    described.sort();
    described.dedup();
    assert_eq!(described, keys);
}
