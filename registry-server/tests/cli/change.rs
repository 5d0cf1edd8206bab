//! Commands that change what is kept: `pin`, `unpin`, `rm`, `reload`.

use registry_server::api::{Image, Page, Pinned, Removed};

use crate::support::{Scene, assert_lines};

impl Scene {
    /// The images that the mirror holds.
    fn held(&self) -> Vec<String> {
        let page: Page<Image> = self.cli(&["ls", "--all", "--json"]).document();
        page.items.into_iter().map(|image| image.name).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_are_set_and_taken_away() {
    let scene = Scene::new().await;
    assert_lines(
        &scene.cli(&["pin", "alpine:3.20", "ghcr.io/org/*"]).done(),
        "pinned docker.io/library/alpine:3.20\npinned ghcr.io/org/*\n",
    );
    let again: Page<Pinned> = scene.cli(&["pin", "--json", "alpine:3.20"]).document();
    assert_eq!(again.items[0].pin, "docker.io/library/alpine:3.20");
    assert_lines(
        &scene.cli(&["unpin", "alpine:3.20"]).done(),
        "unpinned docker.io/library/alpine:3.20\n",
    );
    // One of two is there: what could be done is done, and told.
    let ran = scene.cli(&["unpin", "ghcr.io/org/*", "alpine:3.20"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert_eq!(ran.out, "unpinned ghcr.io/org/*\n");
    assert!(ran.err.starts_with("error: alpine:3.20: "), "{}", ran.err);
    scene.cli(&["unpin", "alpine:3.20"]).failed(3);
    scene
        .cli(&["unpin", "alpine:3.20", "alpine:3.19"])
        .failed(3);
    scene.cli(&["pin", "Alpine"]).failed(2);
    scene.cli(&["pin"]).failed(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_is_removed_without_a_question() {
    let scene = Scene::new().await.filled();
    let before = scene.hub.total();
    assert_lines(
        &scene.cli(&["rm", "postgres:16"]).done(),
        "removed docker.io/library/postgres:16, 4.0 MiB are free\n",
    );
    assert_eq!(
        scene.held(),
        ["docker.io/library/alpine:3.20", "ghcr.io/org/tools:v1"]
    );
    scene.cli(&["rm", "postgres:16"]).failed(3);
    // What another image needs, it still has.
    scene.cli(&["why", "ghcr.io/org/tools:v1"]).done();
    assert_eq!(
        scene.hub.total(),
        before,
        "nobody is asked about what is removed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_removed_only_on_purpose() {
    let scene = Scene::new().await.filled();
    let all = scene.held();
    // There is nobody to ask.
    let said = scene.cli(&["rm", "docker.io/**"]).failed(2);
    assert!(said.contains("would remove 2 images: --yes"), "{said}");
    scene.cli(&["rm", "alpine:3.20", "postgres:16"]).failed(2);
    assert_lines(
        &scene
            .cli(&["rm", "-n", "docker.io/**", "ghcr.io/org/tools:v1"])
            .done(),
        &(all.join("\n") + "\n"),
    );
    assert_eq!(scene.held(), all);

    // What is pinned stays, and is told.
    let said = scene.cli(&["rm", "alpine:3.20"]).failed(1);
    assert!(said.contains("unpin that first"), "{said}");
    scene.cli(&["unpin", "alpine:3.20"]).done();
    assert_lines(
        &scene
            .cli(&["rm", "--yes", "docker.io/**:*", "alpine:3.20"])
            .done(),
        "removed docker.io/library/alpine:3.20, 3.0 MiB are free\n\
         removed docker.io/library/postgres:16, 4.0 MiB are free\n\
         2 images, 7.0 MiB are free\n",
    );
    assert_eq!(scene.held(), ["ghcr.io/org/tools:v1"]);
    // No image matches any more.
    let said = scene.cli(&["rm", "-y", "library/*"]).failed(3);
    assert!(
        said.contains("nothing that is cached is called library/*"),
        "{said}"
    );
    // Some of it is not there.
    let ran = scene.cli(&["rm", "-y", "--json", "ghcr.io/org/tools:v1", "alpine:3.20"]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    let page: Page<Removed> = ran.document();
    assert_eq!(page.items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_without_a_file_has_nothing_to_reload() {
    let scene = Scene::new().await;
    let said = scene.cli(&["reload"]).failed(1);
    assert!(
        said.contains("no configuration file to read again"),
        "{said}"
    );
}
