//! Prometheus itself, scraping a mirror and evaluating the alert rules that are shipped with it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::http::get;
use crate::mirror::{Mirror, MirrorOptions};
use crate::requirements;
use crate::workshop::{Process, Workshop, command, poll};

const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];
/// How long something may take that needs some scrapes and evaluations, one of each a second.
const SOON: Duration = Duration::from_secs(60);

/// An address of this machine where nothing answers.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards/alerts.yaml")
}

/// A running Prometheus.
struct Prometheus {
    address: SocketAddr,
    process: Process,
}

impl Prometheus {
    #[track_caller]
    fn start(workshop: &Workshop, target: SocketAddr, rules: &Path) -> Self {
        let configuration = workshop.path("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{rules:?}]\n\
             scrape_configs: [{{job_name: registry-server, static_configs: [{{targets: \
             ['{target}']}}]}}]\n"
        );
        fs::write(&configuration, text).expect("write the configuration");
        let mut prometheus = command("prometheus");
        prometheus.arg(format!("--config.file={}", configuration.display()));
        let data = workshop.path("prometheus-data");
        prometheus.arg(format!("--storage.tsdb.path={}", data.display()));
        prometheus.arg("--web.listen-address=127.0.0.1:0");
        let mut process = workshop.spawn("prometheus", prometheus);
        let address = process.await_ready(|output| {
            let (_, rest) = output.split_once(r#"msg="Listening on" address="#)?;
            rest.lines().next()?.parse().ok()
        });
        Self { address, process }
    }

    /// What its API answers at a path.
    fn ask(&self, path: &str) -> Value {
        let answer = get(self.address, &format!("/api/v1/{path}"));
        // It answers in chunks, of which the first begins with its length.
        let text = String::from_utf8_lossy(&answer.body);
        let json: String = text.lines().filter(|line| line.starts_with('{')).collect();
        let value: Value = serde_json::from_str(&json).unwrap_or(Value::Null);
        value["data"].clone()
    }

    /// Waits until what is at a path is as it should be.
    #[track_caller]
    fn await_that(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let found = poll(SOON, || Some(self.ask(path)).filter(&is_so));
        found.unwrap_or_else(|| panic!("in vain: {path} is {:#}", self.ask(path)))
    }

    #[track_caller]
    fn stop(self) {
        let log = self.process.output();
        assert!(!log.contains("level=error"), "{log}");
        // What it says of rules and scrapes that are not right, and of duplicate series.
        assert!(!log.contains("level=warn"), "{log}");
        let status = self.process.stop();
        assert!(status.success(), "prometheus ended with {status}");
    }
}

/// All rules of all groups.
fn all_rules(data: &Value) -> Vec<&Value> {
    let groups = data["groups"].as_array().into_iter().flatten();
    groups
        .flat_map(|group| group["rules"].as_array().into_iter().flatten())
        .collect()
}

#[track_caller]
fn promtool(workshop: &Workshop, arguments: &[&str], file: &Path) -> String {
    let mut promtool = command("promtool");
    promtool.args(arguments).arg(file);
    workshop.run_for_text("promtool", promtool)
}

/// What older scrapers understand, which `promtool check metrics` is one of: the names of counters
/// end in `_total` also where their types are told, and there is no end.
fn in_the_older_format(text: &str) -> String {
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let renamed = text.lines().filter(|line| *line != "# EOF").map(|line| {
        let mut words = line.split(' ');
        let kind = words.nth(1).unwrap_or_default();
        let name = words.next().unwrap_or_default();
        let is_told = line.starts_with('#') && matches!(kind, "HELP" | "TYPE");
        match is_told && counters.contains(&name) {
            true => line.replacen(name, &format!("{name}_total"), 1) + "\n",
            false => format!("{line}\n"),
        }
    });
    renamed.collect()
}

#[test]
fn prometheus_scrapes_and_evaluates_the_alert_rules() {
    if !requirements::are_met("prometheus", &PROGRAMS) {
        return;
    }
    let workshop = Workshop::new();
    let options = MirrorOptions {
        data: workshop.path("mirror-data"),
        upstreams: vec![("registry.example", NOBODY)],
        tls: None,
    };
    let mirror = Mirror::start(&workshop, &options);
    let admin = mirror.admin_address();

    let checked = promtool(&workshop, &["check", "rules"], &rules());
    assert!(checked.contains("SUCCESS"), "{checked}");
    // An endpoint that nobody answers at: from the first question on, it is only probed.
    let path = "/v2/org/app/manifests/1?ns=registry.example";
    assert_eq!(get(mirror.address, path).status, 502);
    let text = String::from_utf8(get(admin, "/metrics").body).expect("metrics are text");
    let metrics = workshop.path("metrics");
    fs::write(&metrics, in_the_older_format(&text)).expect("write the metrics");
    let mut lint = command("sh");
    lint.args(["-c", r#"promtool check metrics <"$0""#])
        .arg(&metrics);
    let lint = workshop.run_for_text("promtool", lint);
    assert_eq!(lint, "", "promtool finds fault with the metrics");

    // The rules as they are, and a copy whose alerts do not wait.
    let hasty = workshop.path("hasty.yaml");
    let shipped = fs::read_to_string(rules()).expect("read the rules");
    let kept = shipped
        .lines()
        .filter(|line| !line.trim().starts_with("for:"));
    let kept: Vec<_> = kept.collect();
    fs::write(&hasty, kept.join("\n")).expect("write the rules");
    let prometheus = Prometheus::start(&workshop, admin, &hasty);
    let targets =
        prometheus.await_that("targets", |data| data["activeTargets"][0]["health"] == "up");
    assert_eq!(targets["activeTargets"][0]["lastError"], "");
    let rules = prometheus.await_that("rules", |data| {
        let rules = all_rules(data);
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
    assert!(all_rules(&rules).len() >= 15, "{rules:#}");
    let firing = |data: &Value| -> Vec<String> {
        let alerts = data["alerts"].as_array().into_iter().flatten();
        alerts
            .filter(|alert| alert["state"] == "firing")
            .filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned()))
            .collect()
    };
    let alerts = prometheus.await_that("alerts", |data| {
        firing(data).iter().any(|name| name == "MirrorUpstreamDown")
    });
    let told = alerts.to_string();
    assert!(told.contains("registry.example"), "{told}");
    let mut others = firing(&alerts);
    others.retain(|name| !matches!(&**name, "MirrorUpstreamDown" | "MirrorEndpointDown"));
    assert!(others.is_empty(), "nothing else is the matter: {told}");
    // The mirror goes, and that is told as well.
    mirror.stop();
    prometheus.await_that("alerts", |data| {
        firing(data).iter().any(|name| name == "MirrorDown")
    });
    prometheus.stop();
    workshop.close();
}
