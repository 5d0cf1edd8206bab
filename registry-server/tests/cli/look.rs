//! Commands that look and change nothing: `status`, `ls`, `df`, `why`, `pins`.

use registry_server::api::{Image, NextPull, Page, Pinned, Repository, Status, Verdict, Why};

use crate::support::{Scene, assert_lines};

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_how_the_mirror_is() {
    let scene = Scene::new().await.filled();
    scene.pull_manifest("docker.io", "library/alpine", "3.20");
    let ran = scene.cli(&["status"]);
    let text = scene.without_addresses(&ran.done());
    let shown: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("free on the disk"))
        .collect();
    assert_lines(
        &(shown.join("\n") + "\n"),
        &format!(
            "● healthy  registry-server {}, up 3 h, serving on 127.0.0.1:#####\n\
             \n\
             \x20          7 blobs, 4 manifests, 1 pin\n\
             \x20          DATA\n\
             Pulls      100.0 % from the cache: 1 of 1 answer\n\
             \x20          491 B served, 16.0 MiB fetched\n\
             \x20          1 revalidated\n\
             Config     no file, read 3 h ago\n\
             \n\
             UPSTREAM   ENDPOINT         STATE  PULLS LEFT    CACHED\n\
             docker.io  127.0.0.1:#####  up              -  15.0 MiB\n\
             ghcr.io    127.0.0.1:#####  up              -   1.0 MiB\n",
            env!("CARGO_PKG_VERSION")
        ),
    );
    // How much there is room for is the machine's to know.
    let storage = text.lines().nth(2).unwrap();
    assert!(storage.starts_with("Storage    █"), "{text}");
    assert!(storage.contains("░  16.0 MiB of "), "{text}");

    let status: Status = scene.cli(&["status", "--json"]).document();
    assert_eq!(status.default_upstream, "docker.io");
    assert_eq!(status.storage.blobs, 7);
    assert_eq!(status.traffic.answers["revalidated"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_needs_a_look() {
    let scene = Scene::new().await.filled();
    scene.ghcr.stop().await;
    // Nobody answers: what is cached is served as stale, what is not is an error.
    scene.pull_manifest("ghcr.io", "org/tools", "v1");
    let text = scene.without_addresses(&scene.cli(&["status"]).done());
    assert!(text.contains("1 stale"), "{text}");
    assert!(text.starts_with("● needs a look  "), "{text}");
    assert!(text.contains("\n  ! ghcr.io "), "{text}");
    assert!(
        text.contains("ghcr.io    127.0.0.1:#####  resting for "),
        "{text}"
    );
    assert!(
        text.contains("  last error ghcr.io at 127.0.0.1:#####, "),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_quiet_upstreams_in_a_line() {
    let scene = Scene::new().await;
    let text = scene.cli(&["status"]).done();
    assert!(text.contains("Pulls      none yet\n"), "{text}");
    assert!(
        text.contains("\nNo news of docker.io, ghcr.io.\n"),
        "{text}"
    );
    let all = scene.cli(&["status", "--all"]).done();
    assert!(all.contains("\nghcr.io    127.0.0.1:"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_lists_repositories() {
    let scene = Scene::new().await.filled();
    assert_lines(
        &scene.cli(&["ls"]).done(),
        "REPOSITORY                  TAGS      SIZE\n\
         docker.io/library/alpine       1   3.0 MiB\n\
         docker.io/library/postgres     1  12.0 MiB\n\
         ghcr.io/org/tools              1   1.0 MiB\n",
    );
    assert_lines(
        &scene.cli(&["ls", "--sort", "size", "docker.io"]).done(),
        "REPOSITORY                  TAGS      SIZE\n\
         docker.io/library/postgres     1  12.0 MiB\n\
         docker.io/library/alpine       1   3.0 MiB\n",
    );
    let page: Page<Repository> = scene.cli(&["ls", "--json", "ghcr.io"]).document();
    assert_eq!(page.items[0].repository, "org/tools");
    let said = scene.cli(&["ls", "--sort", "age"]).failed(2);
    assert!(said.contains("ls --all --sort age"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_lists_images() {
    let scene = Scene::new().await.filled();
    let line = "docker.io/library/alpine:3.20  sha256:8888fab0f246  linux/amd64   3.0 MiB  3.0 MiB  3 h ago    3 h ago  pinned\n";
    assert_lines(
        &scene.cli(&["ls", "--all", "--sort", "size"]).done(),
        &format!(
            "IMAGE                          DIGEST               PLATFORMS        SIZE      OWN  FETCHED  LAST PULL\n\
             docker.io/library/postgres:16  sha256:dd6f77593531  linux/amd64  12.0 MiB  4.0 MiB  3 h ago    3 h ago\n\
             ghcr.io/org/tools:v1           sha256:bcd56c06a141  linux/amd64   9.0 MiB  1.0 MiB  3 h ago    3 h ago\n\
             {line}"
        ),
    );
    let narrow = line.replace("   3.0 MiB  3.0", "  3.0 MiB  3.0");
    // However the repository or the image is written.
    for what in ["alpine", "docker.io/library/alpine", "alpine:3.20"] {
        let text = scene.cli(&["ls", what]).done();
        assert_eq!(text.lines().nth(1), narrow.lines().next(), "{what}: {text}");
    }
    let page: Page<Image> = scene.cli(&["ls", "--json", "--all", "ghcr.io"]).document();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].name, "ghcr.io/org/tools:v1");
    // What is not there.
    let said = scene.cli(&["ls", "redis"]).failed(3);
    assert!(said.contains("registry-server why redis"), "{said}");
    scene.cli(&["ls", "alpine:3.19"]).failed(3);
    scene.cli(&["ls", "Alpine"]).failed(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_of_nothing_says_so() {
    let scene = Scene::new().await;
    let ran = scene.cli(&["ls"]);
    assert_eq!((ran.code, &ran.out[..]), (Some(0), ""));
    assert_eq!(ran.err, "nothing is cached yet\n");
    let page: Page<Image> = scene.cli(&["ls", "-a", "--json"]).document();
    assert!(page.items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn df_shows_what_takes_the_room() {
    let scene = Scene::new().await.filled();
    let text = scene.cli(&["df"]).done();
    let (room, table) = text.split_once("\n\n").unwrap();
    assert!(room.contains("  16.0 MiB of "), "{room}");
    assert_lines(
        table,
        "UPSTREAM, REPOSITORY      SIZE   SHARE      OWN   SHARED  TAGS\n\
         docker.io             15.0 MiB  93.7 %  7.0 MiB  8.0 MiB     2\n\
         \x20 library/postgres    12.0 MiB  74.9 %  4.0 MiB  8.0 MiB     1\n\
         \x20 library/alpine       3.0 MiB  18.7 %  3.0 MiB      0 B     1\n\
         ghcr.io                1.0 MiB   6.2 %  1.0 MiB      0 B     1\n\
         \x20 org/tools            1.0 MiB   6.2 %  1.0 MiB      0 B     1\n",
    );
    let short = scene.cli(&["df", "-n", "1", "docker.io"]).done();
    assert!(
        short.contains("\n  1 more: --top 0 shows all   3.0 MiB  18.7 %\n"),
        "{short}"
    );
    let document: serde_json::Value = scene.cli(&["df", "--json"]).document();
    assert_eq!(
        document["repositories"][1]["repository"],
        "library/postgres"
    );
    assert!(document["repositories"][1]["own_bytes"].as_u64().unwrap() > 4 << 20);
    assert!(document["storage"]["bytes"].as_u64().unwrap() > 16 << 20);
    scene.cli(&["df", "quay.io"]).failed(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_tells_what_is_known_of_an_image() {
    let scene = Scene::new().await.filled();
    let text = scene.without_addresses(&scene.cli(&["why", "alpine:3.20"]).done());
    // How it is said is the mirror's; here are its shape, and what is said here.
    let (sentences, facts) = text.split_once("\n\n").unwrap();
    let sentences: Vec<_> = sentences.lines().collect();
    assert_eq!(sentences[0], "docker.io/library/alpine:3.20  cached");
    assert_eq!(sentences[1], "  It is cached for linux/amd64.");
    assert!(
        sentences.iter().skip(1).all(|line| line.starts_with("  ")),
        "{text}"
    );
    let at = scene.then();
    assert_lines(
        facts,
        &format!(
            "Next pull    asks the registry once whether the tag has moved, and is served\n\
             Digest       sha256:8888fab0f2462a0e97b86e6b3271ff0f72fc203a82973182d958c29c925024c1\n\
             Size         3.0 MiB, all its own\n\
             Platforms    linux/amd64\n\
             Fetched      3 h ago ({at})\n\
             Validated    3 h ago ({at})\n\
             Last pull    3 h ago ({at})\n\
             Pinned       yes: it is never evicted\n\
             Last answer  new, 3 h ago, by 127.0.0.1:#####\n\
             \n\
             MANIFEST             IS              SIZE  HELD  BLOBS  FROM             LAST PULL\n\
             sha256:8888fab0f246  index          491 B   all    0/0  127.0.0.1:#####    3 h ago\n\
             sha256:628b938095a3  linux/amd64  3.0 MiB   all    2/2  127.0.0.1:#####    3 h ago\n\
             sha256:33ab2b2dddc0  linux/arm64    405 B    no    0/0  -                        -\n"
        ),
    );
    let why: Why = scene.cli(&["why", "--json", "alpine:3.20"]).document();
    assert_eq!(
        (why.verdict, why.next_pull),
        (Verdict::Cached, NextPull::Revalidate)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn why_tells_what_is_not_there() {
    let scene = Scene::new().await.filled();
    // Its manifest is here, and nothing else of it.
    scene.pull_manifest("docker.io", "library/redis", "7");
    let partial = scene.cli(&["why", "redis:7"]).done();
    assert!(
        partial.starts_with("docker.io/library/redis:7  partly cached\n"),
        "{partial}"
    );
    assert!(
        partial.contains("\n2 blobs are missing:\n  sha256:"),
        "{partial}"
    );
    assert!(
        partial.contains("Next pull    fetches what is missing\n"),
        "{partial}"
    );

    scene.cli(&["rm", "postgres:16"]).done();
    for (image, verdict, fact) in [
        ("postgres:16", "was removed", "a person asked for it"),
        (
            "alpine:3.19",
            "not cached",
            "Next pull    fetches what is missing",
        ),
        (
            "quay.io/org/app:1",
            "unknown upstream",
            "Next pull    fails",
        ),
    ] {
        let ran = scene.cli(&["why", image]);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        let first = ran.out.lines().next().unwrap();
        assert!(first.ends_with(&format!("{image}  {verdict}")), "{first}");
        assert!(ran.out.contains(fact), "{}", ran.out);
        assert_eq!(ran.err, "");
    }
    scene.cli(&["why", "not an image"]).failed(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_listed() {
    let scene = Scene::new().await;
    let ran = scene.cli(&["pins"]);
    assert_eq!(
        (ran.code, &ran.out[..], &ran.err[..]),
        (Some(0), "", "nothing is pinned\n")
    );
    scene.cli(&["pin", "alpine:3.20", "ghcr.io/org/**"]).done();
    assert_lines(
        &scene.cli(&["pins"]).done(),
        "PIN                              SINCE\n\
         docker.io/library/alpine:3.20  3 h ago\n\
         ghcr.io/org/**                 3 h ago\n",
    );
    let page: Page<Pinned> = scene.cli(&["pins", "--json"]).document();
    assert_eq!(page.items.len(), 2);
}
