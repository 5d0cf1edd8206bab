//! How the program behaves: statuses, colours, pipes, and what it says where nothing answers.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

use registry_server::api::Status;

use crate::support::{Ran, Scene, command, run};

/// An address where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Each command that asks a mirror, with as little as it takes.
const COMMANDS: [&[&str]; 16] = [
    &["status"],
    &["why", "alpine"],
    &["ls"],
    &["ls", "alpine"],
    &["df"],
    &["warm", "alpine"],
    &["pin", "alpine"],
    &["unpin", "alpine"],
    &["pins"],
    &["rm", "alpine"],
    &["verify"],
    &["gc"],
    &["jobs"],
    &["export", "alpine", "-o", "-"],
    &["import", "/dev/null"],
    &["reload"],
];

#[test]
fn a_mirror_that_is_not_there_is_a_status_of_its_own() {
    for arguments in COMMANDS {
        let said = run(arguments, &[("REGISTRY_ADMIN", NOWHERE)], "").failed(4);
        assert!(
            said.contains("no mirror answers at http://127.0.0.1:9: "),
            "{said}"
        );
        assert!(
            said.contains("`registry-server` starts one; --admin"),
            "{said}"
        );
    }
}

#[test]
fn something_else_that_answers_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers = [
        "404 Not Found\r\n\r\n",
        "200 OK\r\n\r\n{\"version\": 7}",
        "404 Not Found\r\n\r\n{\"code\": \"unknown_path\", \"message\": \"nothing\"}",
        "404 Not Found\r\n\r\n{\"code\": \"not_found\", \"message\": \"nothing\"}",
    ];
    let server = thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).unwrap();
            let answer = format!(
                "HTTP/1.1 {}",
                answer.replacen("\r\n", "\r\nConnection: close\r\n", 1)
            );
            std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        }
    });
    let said = run(&["status", "--admin", &address], &[], "").failed(1);
    assert!(
        said.contains("404 Not Found") && said.contains("something else"),
        "{said}"
    );
    let said = run(&["status", "--admin", &address], &[], "").failed(1);
    assert!(said.contains("a form that this version"), "{said}");
    // A mirror of another version is no image that is not there.
    let said = run(&["why", "a", "--admin", &address], &[], "").failed(1);
    assert!(said.contains("command line of the version"), "{said}");
    run(&["why", "a", "--admin", &address], &[], "").failed(3);
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_shown() {
    let scene = Scene::with(|builder, folder| {
        fs::write(folder.join("token"), "0123456789abcdef-correct\n").unwrap();
        builder.admin_token_file(folder.join("token"))
    })
    .await;
    let said = scene.cli(&["status"]).failed(1);
    assert!(
        said.contains("wants a token") && said.contains("--admin-token-file"),
        "{said}"
    );
    let wrong = scene.folder.path().join("wrong");
    fs::write(&wrong, "0123456789abcdef-incorrect\n").unwrap();
    let said = scene
        .cli(&["status", "--admin-token-file", wrong.to_str().unwrap()])
        .failed(1);
    assert!(said.contains("refuses the token"), "{said}");
    assert!(!said.contains("incorrect"), "{said}");
    let right = scene.folder.path().join("token");
    let right = right.to_str().unwrap();
    scene.cli(&["status", "--admin-token-file", right]).done();
    let admin = scene.admin().to_string();
    let env = [
        ("REGISTRY_ADMIN", &admin[..]),
        ("REGISTRY_ADMIN_TOKEN_FILE", right),
    ];
    run(&["status"], &env, "").done();
    // As the mirror's own configuration file says it.
    let config = scene.folder.path().join("registry.toml");
    let text = format!("admin_listen = \"{admin}\"\nadmin_token_file = \"token\"\n");
    fs::write(&config, text).unwrap();
    run(&["status", "--config", config.to_str().unwrap()], &[], "").done();
    run(
        &["status"],
        &[("REGISTRY_CONFIG", config.to_str().unwrap())],
        "",
    )
    .done();
    let said = scene
        .cli(&["status", "--admin-token-file", "/no/such/file"])
        .failed(2);
    assert!(said.contains("/no/such/file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_are_for_those_who_want_them() {
    let scene = Scene::new().await.filled();
    let admin = scene.admin().to_string();
    let coloured = |arguments: &[&str], env: &[(&str, &str)]| {
        let env: Vec<_> = env
            .iter()
            .copied()
            .chain([("REGISTRY_ADMIN", &admin[..])])
            .collect();
        run(arguments, &env, "").done().contains('\x1b')
    };
    assert!(!coloured(&["status"], &[]), "a pipe is no terminal");
    assert!(coloured(&["status", "--color", "always"], &[]));
    assert!(coloured(
        &["status", "--color", "always"],
        &[("NO_COLOR", "1")]
    ));
    assert!(coloured(&["status"], &[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(
        &["status"],
        &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]
    ));
    assert!(!coloured(
        &["status", "--color", "never"],
        &[("CLICOLOR_FORCE", "1")]
    ));
    assert!(!coloured(&["status", "--color", "always", "--json"], &[]));
    // Where the columns are is the same.
    let plain = scene.cli(&["ls", "-a"]).done();
    let styled = scene.cli(&["ls", "-a", "--color", "always"]).done();
    assert_eq!(anstream::adapter::strip_str(&styled).to_string(), plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_in_a_pipe_are_not_wrapped() {
    let scene = Scene::new().await.filled();
    for arguments in [&["ls", "-a"][..], &["status"], &["why", "alpine:3.20"]] {
        let admin = scene.admin().to_string();
        let narrow = run(
            arguments,
            &[("REGISTRY_ADMIN", &admin), ("COLUMNS", "20")],
            "",
        )
        .done();
        assert_eq!(narrow, scene.cli(arguments).done());
        assert!(
            narrow.lines().all(|line| line == line.trim_end()),
            "{narrow}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_reading_breaks_nothing() {
    let scene = Scene::new().await.filled();
    for arguments in [&["status"][..], &["ls", "-a"], &["status", "--json"]] {
        let mut child = command(arguments)
            .env("REGISTRY_ADMIN", scene.admin().to_string())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, &ran.err[..]), (Some(0), ""), "{arguments:?}");
    }
    let mut completions = command(&["completions", "bash"]).spawn().unwrap();
    drop(completions.stdout.take());
    let ran = Ran::from(completions.wait_with_output().unwrap());
    assert_eq!((ran.code, &ran.err[..]), (Some(0), ""));
    // A disk that is full is another matter.
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut child = command(&["ls"]);
    child
        .env("REGISTRY_ADMIN", scene.admin().to_string())
        .stdout(Stdio::from(full));
    let ran = Ran::from(child.output().unwrap());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("cannot write the result"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_on_standard_output_alone() {
    let scene = Scene::new().await.filled();
    let ran = scene.cli(&["status", "--json"]);
    assert_eq!(ran.err, "");
    let status: Status = ran.document();
    assert_eq!(
        ran.out,
        serde_json::to_string_pretty(&status).unwrap() + "\n"
    );
    // Progress and remarks are not results.
    let ran = scene.cli(&["verify", "--json"]);
    assert!(ran.err.starts_with("job 2: "), "{}", ran.err);
    let _: serde_json::Value = ran.document();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_a_bar_and_lines_that_fit() {
    let scene = Scene::new().await;
    let program = env!("CARGO_BIN_EXE_registry-server");
    let admin = scene.admin();
    // `script` gives it a terminal, of which standard error is a part.
    let terminal = |arguments: &str| {
        let line = format!("stty cols 60 rows 24; {program} {arguments}");
        let output = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm")
            .env("REGISTRY_ADMIN", admin.to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let warmed = terminal("warm -p linux/amd64 alpine:3.20 postgres:16");
    assert!(warmed.contains("\x1b["), "{warmed}");
    assert!(
        warmed.contains("docker.io/library/alpine:3.20: 2 blobs"),
        "{warmed}"
    );
    let listed = terminal("ls --all");
    let plain = anstream::adapter::strip_str(&listed).to_string();
    assert!(
        plain
            .lines()
            .all(|line| line.trim_end().chars().count() <= 99),
        "{plain}"
    );
    assert!(plain.contains('…'), "{plain}");
    // Names that no terminal has room for keep what tells them apart in a pipe.
    assert!(!scene.cli(&["ls", "--all"]).done().contains('…'));
}
