//! Long work: `warm`, `verify`, `gc`, `jobs`.

use std::fs;
use std::io::Read as _;
use std::time::{Duration, Instant};

use http::Method;
use registry_server::api::{Image, Job, JobKind, JobState, Page};
use registry_server::testing::{Fault, Gate, Match, Object, Times};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Scene, assert_lines, command};

/// How long anything is waited for before the test fails.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// As `helm template` prints them.
const OBJECTS: &str = r#"---
# Source: shop/templates/db.yaml
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  template:
    spec:
      containers:
        - name: db
          image: postgres:16
        - name: tools
          image: "ghcr.io/org/tools:v1"
---
# Source: shop/templates/cron.yaml
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers:
            - {name: init, image: docker.io/library/postgres:16}
          containers:
            - {name: main, image: alpine:3.20}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn warm_fetches_images_before_anybody_pulls_them() {
    let scene = Scene::new().await;
    let ran = scene.cli(&["warm", "--platform", "linux/arm64", "alpine:3.20"]);
    assert_eq!(
        ran.err, "job 1: fetch docker.io/library/alpine:3.20\n",
        "without a terminal there are lines"
    );
    let text = ran.done();
    assert!(
        text.starts_with("docker.io/library/alpine:3.20: 2 blobs (3.0 MiB) "),
        "{text}"
    );
    let page: Page<Image> = scene.cli(&["ls", "--json", "alpine"]).document();
    assert_eq!(page.items[0].platforms, ["linux/arm64"]);
    // All platforms, of which one is there: only the other is fetched.
    let fetched = scene.hub.body_bytes_sent();
    let job: Job = scene
        .cli(&["warm", "--json", "--all-platforms", "alpine:3.20"])
        .document();
    assert_eq!((job.kind, job.state), (JobKind::Warm, JobState::Done));
    let fetched = scene.hub.body_bytes_sent() - fetched;
    assert!((3 << 20..4 << 20).contains(&fetched), "{fetched}");
    let page: Page<Image> = scene.cli(&["ls", "--json", "alpine"]).document();
    assert_eq!(page.items[0].platforms.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_reads_what_helm_prints_from_standard_input() {
    let scene = Scene::new().await;
    let ran = scene.cli_with(&["warm", "-p", "linux/amd64", "-"], OBJECTS);
    assert!(
        ran.err.starts_with("standard input: 4 images\n"),
        "{}",
        ran.err
    );
    ran.done();
    let page: Page<Image> = scene.cli(&["ls", "--all", "--json"]).document();
    let names: Vec<_> = page.items.iter().map(|it| &it.name[..]).collect();
    assert_eq!(
        names,
        [
            "docker.io/library/alpine:3.20",
            "docker.io/library/postgres:16",
            "ghcr.io/org/tools:v1"
        ]
    );
    // Written in two ways, it is one image, and its blobs are fetched once.
    assert_eq!(scene.hub.count(Method::GET, Object::Blob), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_reads_files_and_tells_what_it_cannot_use() {
    let scene = Scene::new().await;
    let folder = scene.folder.path();
    let list = folder.join("images");
    fs::write(&list, "# the cluster\nalpine:3.20\n").unwrap();
    let compose = folder.join("compose.yaml");
    fs::write(
        &compose,
        "services:\n  db: {image: 'postgres:${V:-16}'}\n  mail: {image: 'mail:${MAIL}'}\n",
    )
    .unwrap();
    let (list, compose) = (list.to_str().unwrap(), compose.to_str().unwrap());
    let ran = scene.cli(&["warm", "--dry-run", "-f", list, "-f", compose, "redis:7"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert_eq!(ran.out, "redis:7\nalpine:3.20\npostgres:16\n");
    let left_out = "left out: ";
    assert!(ran.err.contains(left_out), "{}", ran.err);
    assert!(
        ran.err
            .contains("service mail: the variable MAIL is not set"),
        "{}",
        ran.err
    );
    let plan: serde_json::Value = scene.cli(&["warm", "-n", "--json", "-f", list]).document();
    assert_eq!(plan["images"][0], "alpine:3.20");
    assert_eq!(scene.hub.total(), 0, "a dry run asks nobody");
    // What can be fetched is, and the status tells that this was not all.
    let ran = scene.cli(&["warm", "-p", "linux/amd64", "-f", compose]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    scene.cli(&["why", "postgres:16"]).done();
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_refuses_what_it_does_not_understand() {
    let scene = Scene::new().await;
    for (arguments, input, wanted) in [
        (
            &["warm", "-"][..],
            "image:\n  repository: nginx\n",
            "helm template",
        ),
        (&["warm", "-"], "", "it is empty"),
        (&["warm", "Alpine"], "", "upper-case"),
        (
            &["warm", "-f", "/no/such/file"],
            "",
            "cannot read /no/such/file",
        ),
        (&["warm"], "", "required"),
        (
            &["warm", "-p", "x", "--all-platforms", "a"],
            "",
            "cannot be used with",
        ),
    ] {
        let said = scene.cli_with(arguments, input).failed(2);
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
    assert_eq!(scene.hub.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_goes_on_past_what_fails() {
    let scene = Scene::new().await;
    let ran = scene.cli(&["warm", "-p", "linux/amd64", "nope:1", "alpine:3.20"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(
        ran.out.ends_with("warm could not do all of it (job 1)\n"),
        "{}",
        ran.out
    );
    assert!(
        ran.err.contains("error: docker.io/library/nope:1: "),
        "{}",
        ran.err
    );
    // None of it is another status.
    scene.cli(&["warm", "nope:1"]).failed(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_begun_listed_watched_and_cancelled() {
    let scene = Scene::new().await;
    let ran = scene.cli(&["jobs"]);
    assert_eq!((&ran.out[..], &ran.err[..]), ("", "there are no jobs\n"));
    let gate = Gate::new();
    let held = Fault::Hold { gate: gate.clone() };
    scene
        .hub
        .fault(Match::object(Object::Blob), Times::Always, held);
    assert_eq!(
        scene.cli(&["warm", "--detach", "postgres:16"]).done(),
        "1\n"
    );
    let text = scene.cli(&["jobs"]).done();
    let first = text.lines().nth(1).unwrap();
    assert!(
        first.starts_with("fetch docker.io/library/postgres:16   1  running  "),
        "{text}"
    );
    let job: Job = scene.cli(&["jobs", "cancel", "1", "--json"]).document();
    assert_eq!(job.id, 1);
    let ran = scene.cli(&["jobs", "watch", "1"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert!(
        ran.out.ends_with("warm was cancelled (job 1)\n"),
        "{}",
        ran.out
    );
    gate.open();
    let page: Page<Job> = scene.cli(&["jobs", "list", "--json"]).document();
    assert_eq!(page.items[0].state, JobState::Cancelled);
    scene.cli(&["jobs", "cancel", "1"]).failed(1);
    scene.cli(&["jobs", "watch", "99"]).failed(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_cancels_the_job() {
    let scene = Scene::new().await;
    let gate = Gate::new();
    let held = Fault::Hold { gate: gate.clone() };
    scene
        .hub
        .fault(Match::object(Object::Blob), Times::Always, held);
    let mut child = command(&["warm", "postgres:16"])
        .env("REGISTRY_ADMIN", scene.admin().to_string())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + WAIT_MAX;
    while scene.hub.count(Method::GET, Object::Blob) == 0 {
        assert!(Instant::now() < deadline, "no blob is asked for");
        tokio::task::yield_now().await;
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5), "{said}");
    assert!(
        said.contains("job 1 is told to end; Ctrl-C again leaves it to itself"),
        "{said}"
    );
    gate.open();
    let job: Page<Job> = scene.cli(&["jobs", "--json"]).document();
    assert_eq!(job.items[0].state, JobState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_hashes_what_is_kept() {
    let scene = Scene::new().await.filled();
    let ran = scene.cli(&["verify"]);
    assert_lines(
        &ran.done(),
        "4 manifests and 7 blobs (16.0 MiB) were hashed\nall of it is what its digest names\n",
    );
    let job: Job = scene
        .cli(&["verify", "--json", "--rate", "1GiB", "alpine:3.20"])
        .document();
    assert_eq!((job.kind, job.state), (JobKind::Verify, JobState::Done));
    scene.cli(&["verify", "--rate", "fast"]).failed(2);
    let text = scene.cli(&["jobs"]).done();
    assert!(text.contains("  done   11, 16.0 MiB  "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_what_is_damaged() {
    let scene = Scene::new().await.filled();
    let blobs = scene.folder.path().join("data/blobs");
    let biggest = scene.biggest_file(&blobs);
    let mut bytes = fs::read(&biggest).unwrap();
    bytes[1000] ^= 1;
    fs::write(&biggest, bytes).unwrap();
    let ran = scene.cli(&["verify"]);
    assert!(ran.out.contains("was not what its digest names"), "{ran:?}");
    assert!(!ran.out.contains("all of it is what"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_evicts_down_to_what_it_is_told() {
    let scene = Scene::new().await.filled();
    let dry: Job = scene
        .cli(&["gc", "--dry-run", "--json", "--to", "4MiB"])
        .document();
    assert_eq!((dry.kind, dry.state), (JobKind::Collect, JobState::Done));
    let before: Page<Image> = scene.cli(&["ls", "-a", "--json"]).document();
    assert_eq!(before.items.len(), 3);
    scene.cli(&["gc", "--to", "4MiB"]).done();
    let left: Page<Image> = scene.cli(&["ls", "-a", "--json"]).document();
    // What is pinned stays.
    let left: Vec<_> = left.items.iter().map(|it| &it.name[..]).collect();
    assert_eq!(left, ["docker.io/library/alpine:3.20"]);
    scene.cli(&["gc"]).done();
}
