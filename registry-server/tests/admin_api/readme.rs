//! What the README says to type, typed.

use std::process::Command;
use std::sync::Arc;

use registry_core::testing::ManualClock;
use registry_server::testing::{FixtureRegistry, ImageSpec};

use super::support::{Question, builder};

/// The lines of the first block of a section.
fn lines_of(section: &str) -> Vec<&'static str> {
    let readme = include_str!("../../../README.md");
    let (_, after) = readme.split_once(section).expect("the section is there");
    let (_, block) = after.split_once("```sh\n").expect("it has a block");
    let (block, _) = block.split_once("```").expect("the block ends");
    block.lines().collect()
}

#[tokio::test]
async fn what_the_readme_says_to_type_works() {
    let origin = FixtureRegistry::start().await;
    let spec = ImageSpec::new(1).platforms(&["linux/amd64", "linux/arm64"]);
    origin.add_image("library/alpine", "3.20", &spec);
    let folder = tempfile::tempdir().unwrap();
    let mirror = builder(&origin, &Arc::new(ManualClock::default()))
        .upstream("docker.io", &origin.url())
        .default_upstream("docker.io")
        .data_dir(folder.path().join("data"))
        .start()
        .await
        .unwrap();
    let pull = Question::get("/v2/library/alpine/manifests/3.20");
    assert_eq!(pull.send_to(mirror.addr()).await.status, 200);
    let admin = mirror.admin_addr().unwrap().to_string();
    let lines = lines_of("### Administration over HTTP");
    assert_eq!(lines.len(), 7);
    for line in lines {
        let line = line.replace("localhost:5001", &admin);
        let line = format!("{line} --noproxy '*' --max-time 30 --write-out '\\n%{{http_code}}'");
        let typed = line.clone();
        let run = tokio::task::spawn_blocking(move || {
            Command::new("sh").args(["-c", &typed]).output().unwrap()
        });
        let output = run.await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        assert!(status.starts_with('2'), "{line}\n{said}");
        let _: serde_json::Value = serde_json::from_str(body).unwrap();
    }
    mirror.shutdown().await;
}
