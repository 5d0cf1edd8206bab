//! The binary, as whoever runs it sees it: what it says, what it answers, how it ends.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at what it cannot do without"
)]

#[path = "support/http.rs"]
mod http;
#[path = "binary/process.rs"]
mod process;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use http::get;
use process::{Process, run};
use registry_server::testing::{Fault, FixtureRegistry, Gate, Match, Times};
use rustix::process::Signal;

/// An address where nothing listens: an upstream that cannot be reached.
const NOWHERE: &str = "http://127.0.0.1:9";

#[test]
fn starts_and_answers_while_no_upstream_can_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = format!("docker.io={NOWHERE}");
    let mirror = Process::serve(folder.path(), &["serve", "--upstream", &upstream]);

    let admin = mirror.admin_address();
    assert_eq!(get(admin, "/healthz").status, 200);
    assert_eq!(get(admin, "/readyz").status, 200);
    let ping = get(mirror.address(), "/v2/");
    assert_eq!(ping.status, 200);
    assert_eq!(
        ping.header("docker-distribution-api-version"),
        Some("registry/2.0")
    );
    // What was never pulled cannot be served, and that is told in the form of the specification.
    let unseen = get(mirror.address(), "/v2/library/alpine/manifests/latest");
    assert!([502, 504].contains(&unseen.status), "{unseen:?}");
    let error: serde_json::Value = serde_json::from_slice(&unseen.body).unwrap();
    assert!(error["errors"][0]["code"].is_string(), "{error}");

    assert!(mirror.stop().success());
}

#[test]
fn alone_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = Process::serve(folder.path(), &[]);
    assert_eq!(get(mirror.address(), "/v2/").status, 200);
    assert!(mirror.stop().success());
}

#[test]
fn says_what_it_is_and_how_to_use_it() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = "registry.example.org=https://a.example.org,https://b.example.org";
    let mirror = Process::serve(folder.path(), &["--upstream", upstream]);
    let said = mirror.said();
    for wanted in [
        &format!("{}/data (", folder.path().display())[..],
        "ghcr.io               https://ghcr.io\n",
        " https://registry-1.docker.io  (default)",
        "registry.example.org  https://a.example.org, https://b.example.org",
        "/etc/containerd/certs.d/_default/hosts.toml",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
    assert!(
        !said.contains('\x1b'),
        "colours without a terminal:\n{said}"
    );

    // The file that is printed is the indented part.
    let (_, after) = said.split_once("on each node:\n\n").unwrap();
    let (printed, _) = after.split_once("\n\n").unwrap();
    let address = mirror.address();
    assert_points_to(printed, &format!("http://{address}"));
    assert!(mirror.stop().success());
}

#[test]
fn prints_the_hosts_toml_alone() {
    for (arguments, env, url) in [
        (
            &["hosts-toml", "--url", "https://mirror.example.org/"][..],
            None,
            "https://mirror.example.org",
        ),
        (&["hosts-toml"], None, "http://127.0.0.1:5000"),
        (
            &["hosts-toml"],
            Some(("REGISTRY_LISTEN", "10.1.2.3:5001")),
            "http://10.1.2.3:5001",
        ),
    ] {
        let output = run(arguments, env);
        assert!(output.status.success());
        assert_points_to(&String::from_utf8(output.stdout).unwrap(), url);
        assert_eq!(output.stderr, b"");
    }
}

#[test]
fn prints_what_real_clients_are_tested_with() {
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/config/containerd/certs.d/_default/hosts.toml"
    );
    let example: toml::Table = fs::read_to_string(example).unwrap().parse().unwrap();
    let printed = run(&["hosts-toml"], None).stdout;
    let printed: toml::Table = String::from_utf8(printed).unwrap().parse().unwrap();
    assert_eq!(printed, example);
}

#[track_caller]
fn assert_points_to(hosts_toml: &str, url: &str) {
    let file: toml::Table = hosts_toml.parse().unwrap();
    let host = &file["host"][url];
    assert_eq!(
        host["capabilities"],
        toml::Value::from(vec!["pull", "resolve"])
    );
}

#[test]
fn logs_in_json_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = Process::serve(folder.path(), &["--log-format", "json"]);
    let address = mirror.address();
    assert_eq!(get(address, "/v2/").status, 200);
    mirror.await_line(|line| line.contains("\"target\":\"access\"").then_some(()));
    let (status, said) = mirror.stop_and_say();
    assert!(status.success());

    let events: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect();
    let event = |message: &str| {
        let found = events.iter().find(|event| event["message"] == message);
        found.unwrap_or_else(|| panic!("no {message:?} in {events:#?}"))
    };
    assert_eq!(event("listening")["listen"], address.to_string());
    let data = folder.path().join("data");
    assert_eq!(event("storing")["data_dir"], data.to_str().unwrap());
    let upstreams = event("mirroring")["upstreams"].as_str().unwrap();
    assert!(upstreams.contains("docker.io=https://registry-1.docker.io"));
    let hosts_toml = event("to point containerd here")["content"]
        .as_str()
        .unwrap();
    assert_points_to(hosts_toml, &format!("http://{address}"));
    event("stopping: no new connections, a second signal ends at once what is left");
    event("stopped");
}

#[test]
fn logs_only_what_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = Process::serve(folder.path(), &["--log", "info,access=off"]);
    assert_eq!(get(mirror.address(), "/v2/").status, 200);
    let (status, said) = mirror.stop_and_say();
    assert!(status.success());
    assert!(said.contains("stopping"), "{said}");
    assert!(!said.contains(" access"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_lets_answers_under_way_finish() {
    let upstream = FixtureRegistry::start().await;
    let blob = upstream.add_blob("library/app", 1, 1 << 20);
    let gate = Gate::new();
    let held = Fault::HoldAfter {
        bytes: 256 << 10,
        gate: gate.clone(),
    };
    upstream.fault(Match::blob(blob.digest), Times::Once, held);
    let folder = tempfile::tempdir().unwrap();
    let flag = format!("docker.io={}", upstream.url());
    let mirror = Process::serve(folder.path(), &["--upstream", &flag]);

    let mut client = begin_get(
        mirror.address(),
        &format!("/v2/library/app/blobs/{}", blob.digest),
    );
    let mut answer = read_past_headers(&mut client);
    mirror.signal(Signal::TERM);
    mirror.await_line(|line| line.contains("stopping").then_some(()));
    mirror.await_refusal();
    gate.open();
    client.read_to_end(&mut answer).unwrap();
    let (status, said) = mirror.wait_and_say();
    assert!(
        answer.ends_with(&upstream.bytes(&blob.digest).unwrap()),
        "{} {said}",
        answer.len()
    );
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("stopped"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let upstream = FixtureRegistry::start().await;
    let blob = upstream.add_blob("library/app", 1, 1 << 20);
    let held = Fault::HoldAfter {
        bytes: 256 << 10,
        gate: Gate::new(),
    };
    upstream.fault(Match::blob(blob.digest), Times::Always, held);
    let folder = tempfile::tempdir().unwrap();
    let flag = format!("docker.io={}", upstream.url());
    let mirror = Process::serve(folder.path(), &["--upstream", &flag]);

    let mut client = begin_get(
        mirror.address(),
        &format!("/v2/library/app/blobs/{}", blob.digest),
    );
    let mut answer = read_past_headers(&mut client);
    mirror.signal(Signal::INT);
    mirror.await_line(|line| line.contains("stopping").then_some(()));
    mirror.signal(Signal::TERM);
    let (status, said) = mirror.wait_and_say();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("stopped at once"), "{said}");
    // Cut short: whether by a FIN or a reset is up to the system, as the process is gone.
    let _ = client.read_to_end(&mut answer);
    assert!(answer.len() < 1 << 20);
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let owner = Process::serve(folder.path(), &[]);
    let (status, said) = Process::spawn(folder.path(), &[]).wait_and_say();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&owner.id().to_string()), "{said}");
    // And it goes on serving.
    assert_eq!(get(owner.address(), "/v2/").status, 200);
    assert!(owner.stop().success());
    // Nothing is left of it that would keep the next one out.
    assert!(Process::serve(folder.path(), &[]).stop().success());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--admin-listen"] {
        let folder = tempfile::tempdir().unwrap();
        let (status, said) = Process::spawn(folder.path(), &[flag, &address]).wait_and_say();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&address), "{said}");
        assert!(said.contains(flag), "{said}");
        assert!(said.lines().count() <= 2, "{said}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_key_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    fs::write(
        &file,
        "listen = \"127.0.0.1:0\"\n[upstream.\"ghcr.io\"]\nendpoints = [\"ftp://x\"]\nuser = \"x\"\n",
    )
    .unwrap();
    let output = run(
        &["--config", file.to_str().unwrap()],
        Some(("REGISTRY_TAG_TTL", "soon")),
    );
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for wanted in [
        "REGISTRY_TAG_TTL: \"soon\" is not a duration",
        "registry.toml:3: upstream.\"ghcr.io\".endpoints[0]: \"ftp://x\" is not an http",
        "registry.toml:4: upstream.\"ghcr.io\".user: unknown key",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    for arguments in [
        &["--no-such-flag"][..],
        &["serve", "--listen"],
        &["no-such-command"],
        &["hosts-toml", "--url", "mirror:5000:x"],
        &["hosts-toml", "--url", "mirror.example.org"],
    ] {
        let output = run(arguments, None);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn help_shows_a_file_that_is_right() {
    let help = String::from_utf8(run(&["--help"], None).stdout).unwrap();
    let (_, example) = help
        .split_once("An example of a configuration file:\n")
        .unwrap();
    let (example, _) = example.split_once("\nAn upstream also takes").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.toml");
    fs::write(&file, example).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let mirror = Process::serve(folder.path(), &config);
    assert!(mirror.said().contains("https://standby.example.org"));
    assert!(mirror.stop().success());
}

#[test]
fn help_names_every_setting() {
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let output = run(arguments, None);
        assert!(output.status.success());
        // One line, whatever the width that it is wrapped to.
        let help = String::from_utf8(output.stdout).unwrap();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for name in [
            "LISTEN",
            "ADMIN_LISTEN",
            "DATA_DIR",
            "UPSTREAM",
            "DEFAULT_UPSTREAM",
            "TAG_TTL",
            "MAX_SIZE",
            "CONFIG",
            "LOG",
            "LOG_FORMAT",
        ] {
            let flag = name.to_lowercase().replace('_', "-");
            assert!(help.contains(&format!("--{flag} ")), "{help}");
            assert!(help.contains(&format!("[env: REGISTRY_{name}")), "{help}");
        }
    }
    let version = run(&["--version"], None).stdout;
    let wanted = concat!("registry-server ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(String::from_utf8(version).unwrap(), wanted);
}

fn begin_get(address: SocketAddr, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    write!(
        client,
        "GET {path} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    client
}

/// Reads until some of the body has come.
fn read_past_headers(client: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let past_headers = |answer: &[u8]| {
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        end.is_some_and(|end| answer.len() > end + 4)
    };
    while !past_headers(&answer) {
        let read = client.read(&mut buffer).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    answer
}
