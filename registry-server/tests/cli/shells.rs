//! What shells and `man` are given.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{command, run};

/// Every command.
const COMMANDS: [&str; 19] = [
    "serve",
    "status",
    "why",
    "ls",
    "df",
    "warm",
    "pin",
    "unpin",
    "pins",
    "rm",
    "verify",
    "gc",
    "jobs",
    "export",
    "import",
    "reload",
    "hosts-toml",
    "completions",
    "man",
];

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell], &[], "").done();
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    assert!(
        run(&["completions", "tcsh"], &[], "")
            .failed(2)
            .contains("invalid value")
    );
}

#[test]
fn bash_takes_its_completions() {
    let script = run(&["completions", "bash"], &[], "").done();
    let complete = |words: &[&str]| {
        let last = words.len() - 1;
        let script = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={last}\n\
             F=$(complete -p registry-server); F=${{F##*-F }}; F=${{F%% *}}\n\
             $F registry-server \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last} - 1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" ")
        );
        let bash = Command::new("bash")
            .args(["--norc", "-c", &script])
            .output()
            .unwrap();
        assert!(
            bash.status.success(),
            "{}",
            String::from_utf8_lossy(&bash.stderr)
        );
        String::from_utf8(bash.stdout).unwrap()
    };
    assert_eq!(complete(&["registry-server", "sta"]), "status\n");
    assert!(complete(&["registry-server", "warm", "--pl"]).contains("--platform"));
    assert!(complete(&["registry-server", "ls", "--sort", "s"]).contains("size"));
}

#[test]
fn every_command_has_a_page_that_man_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    run(&["man", pages.to_str().unwrap()], &[], "").done();
    for command in COMMANDS {
        let page = pages.join(format!("registry-server-{command}.1"));
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.contains(".TH registry"), "{text}");
        assert_man_reads(&text);
    }
    assert!(pages.join("registry-server-jobs-watch.1").exists());
    let page = run(&["man"], &[], "").done();
    assert_eq!(
        page,
        fs::read_to_string(pages.join("registry-server.1")).unwrap()
    );
    assert_man_reads(&page);
    // A folder that cannot be one is told.
    let said = run(&["man", "/dev/null/x"], &[], "").failed(1);
    assert!(said.contains("/dev/null/x"), "{said}");
}

/// Has groff set a page with all of its warnings on, where there is a groff.
fn assert_man_reads(page: &str) {
    let groff = Command::new("groff")
        .args(["-man", "-ww", "-z", "-Kutf8"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut groff) = groff else {
        assert!(std::env::var_os("CI").is_none(), "groff is not installed");
        return;
    };
    std::io::Write::write_all(&mut groff.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let output = groff.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn help_tells_how_scripts_can_use_it() {
    for name in &COMMANDS[1..16] {
        let help = run(&[name, "--help"], &[], "").done();
        assert!(help.contains("Exit status: 0 done"), "{name}: {help}");
        assert!(help.contains("--json"), "{name}: {help}");
        assert!(help.contains("REGISTRY_ADMIN"), "{name}: {help}");
    }
    assert!(
        command(&["no-such-command"])
            .output()
            .unwrap()
            .status
            .code()
            == Some(2)
    );
}
