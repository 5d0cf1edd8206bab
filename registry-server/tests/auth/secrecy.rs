//! A whole mirror, from its configuration file on: what it logs, and what it tells.

use registry_server::Mirror;
use registry_server::testing::{Login, OutgoingLog};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::configuration::load;
use crate::support::{Folder, TOKEN, answering, assert_only, logs, registry, with_token_server};

/// Asks the mirror, and reads to the end; the whole answer.
async fn get(mirror: &Mirror, path: &str) -> String {
    let mut stream = TcpStream::connect(mirror.addr()).await.unwrap();
    // A client's own credentials are no matter of the mirror's, and go nowhere.
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: mirror\r\nAuthorization: Bearer clientssecret\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn no_secret_is_logged_or_told_or_sent_elsewhere() {
    logs();
    let (tokens, server) = with_token_server(vec![Login::new("marvin", "hunter2a")]).await;
    let basic = registry().await;
    basic.behave(|it| it.basic = Some(vec![Login::new("marvin", "hunter2b")]));
    let folder = Folder::new();
    folder.helper(&answering("marvin", "hunter2c"));
    folder.write("password", "hunter2b\n");
    folder.write(
        "wrong.json",
        r#"{"auths":{"127.0.0.1":{"auth":"bWFydmluOmh1bnRlcjJk"}}}"#,
    );
    let text = format!(
        r#"
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
data_dir = "data"
[upstream."tokens.test"]
endpoints = ["{}"]
username = "marvin"
password = "hunter2a"
[upstream."basic.test"]
endpoints = ["{basic}"]
username = "marvin"
password_file = "password"
[upstream."wrong.test"]
endpoints = ["{basic}"]
docker_config = "wrong.json"
[upstream."wrong.test".credentials."org"]
username = "marvin"
password_env = "HUB_PASSWORD"
"#,
        tokens.url(),
        basic = basic.url()
    );
    let config = load(&folder, &text).unwrap();
    let outgoing = OutgoingLog::default();
    let debugged = format!("{config:?} {:?}", config.warnings());
    // The builder takes the log of what leaves; the rest is the configuration's.
    let mut builder = Mirror::builder()
        .data_dir(&config.data_dir)
        .admin_listen("127.0.0.1:0")
        .outgoing_log(outgoing.clone());
    for (id, upstream) in config.upstreams {
        builder = builder.upstream_config(id.as_str(), upstream);
    }
    let mut told = format!("{debugged} {builder:?}");
    let mirror = builder.start().await.unwrap();
    told.push_str(&format!("{mirror:?} {:?}", mirror.announcement()));
    mirror.announcement().log();
    for (upstream, repository, status) in [
        ("tokens.test", "app", 200),
        ("basic.test", "org/app", 200),
        ("wrong.test", "app", 404),
        ("wrong.test", "org/app", 404),
    ] {
        let answer = get(
            &mirror,
            &format!("/v2/{repository}/manifests/latest?ns={upstream}"),
        )
        .await;
        told.push_str(&answer);
        assert_eq!(&answer[9..12], status.to_string(), "{upstream}: {answer}");
    }
    server.stop().await;
    told.push_str(&get(&mirror, "/v2/org/app/manifests/latest?ns=tokens.test").await);
    mirror.shutdown().await;

    let logged = logs();
    for wanted in [
        "token server answered",
        "upstream answered",
        "listening",
        "wrong.test",
        "the credentials are refused: check",
        "check that there is an entry for this endpoint",
    ] {
        assert!(logged.contains(wanted), "{wanted}: {logged}");
    }
    for text in [&logged, &told] {
        for secret in [
            "hunter2",
            "bWFydmlu",
            "aHVudGVy",
            TOKEN,
            "Basic ",
            "clientssecret",
        ] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    assert_only(
        &outgoing,
        &[
            ("hunter2a", &server.host()),
            ("hunter2b", &basic.host()),
            ("hunter2d", ""),
            ("hunter2-of-env", &basic.host()),
            ("clientssecret", ""),
            (TOKEN, &tokens.host()),
        ],
    );
}
