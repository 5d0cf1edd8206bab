//! Images in a file: `export`, `import`.

use std::fs;
use std::path::Path;

use http::Method;
use registry_server::api::{ExportReport, ImportReport};
use registry_server::config::UpstreamConfig;
use registry_server::testing::{Fault, Match, Times};
use registry_server::{Mirror, MirrorBuilder};
use tempfile::TempDir;

use crate::http::get;
use crate::support::{Ran, Scene, command, run};

/// The images of most of these tests.
const IMAGES: [&str; 2] = ["alpine:3.20", "ghcr.io/org/tools:v1"];

/// A mirror that reaches nobody.
struct Far {
    mirror: Mirror,
    _folder: TempDir,
}

impl Far {
    async fn with(configure: impl FnOnce(MirrorBuilder) -> MirrorBuilder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let builder = Mirror::builder()
            .without_known_upstreams()
            .data_dir(folder.path().join("data"))
            .admin_listen("127.0.0.1:0");
        Self {
            mirror: configure(builder).start().await.unwrap(),
            _folder: folder,
        }
    }

    fn cli(&self, arguments: &[&str]) -> Ran {
        let admin = format!("http://{}", self.mirror.admin_addr().unwrap());
        run(arguments, &[("REGISTRY_ADMIN", &admin)], "")
    }
}

/// An upstream at `url` whose tags are never asked for again.
fn frozen(url: &str) -> UpstreamConfig {
    let mut upstream = UpstreamConfig::new([url.parse().unwrap()]);
    upstream.rules.frozen = Some(true);
    upstream
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_pulled_where_no_registry_is_asked() {
    let scene = Scene::new().await.filled();
    let archive = scene.folder.path().join("images.tar");
    let export = [&["export"], &IMAGES[..], &["-o", text(&archive)]].concat();
    let said = scene.cli(&export).done();
    let wanted = format!("2 images, 12.0 MiB, are in {}\n", archive.display());
    assert!(said.ends_with(&wanted), "{said}");
    assert!(
        said.starts_with("docker.io/library/alpine:3.20  linux/amd64\n"),
        "{said}"
    );
    assert!(said.contains("\nghcr.io/org/tools:v1\n"), "{said}");
    assert!(said.contains("not taken along: linux/arm64 of "), "{said}");
    assert_eq!(
        fs::read_dir(scene.folder.path()).unwrap().count(),
        2,
        "nothing half is left beside it"
    );

    // The registries are there to be counted at: nobody asks them.
    let (hub, ghcr) = (scene.hub.url(), scene.ghcr.url());
    let far = Far::with(|builder| {
        let builder = builder.upstream_config("docker.io", frozen(&hub));
        builder.upstream_config("ghcr.io", frozen(&ghcr))
    })
    .await;
    let asked = || scene.hub.requests().len() + scene.ghcr.requests().len();
    let before = asked();
    let said = far.cli(&["import", text(&archive)]).done();
    assert!(
        said.contains("2 images can be pulled: 12.0 MiB new"),
        "{said}"
    );
    for (upstream, repository, tag) in [
        ("docker.io", "library/alpine", "3.20"),
        ("ghcr.io", "org/tools", "v1"),
    ] {
        let path = format!("/v2/{repository}/manifests/{tag}?ns={upstream}");
        let answer = get(far.mirror.addr(), &path);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("warning"), None, "{answer:?}");
    }
    let report: ImportReport = far.cli(&["import", "--json", text(&archive)]).document();
    assert_eq!((report.images.len(), report.bytes), (2, 0), "{report:?}");
    assert_eq!(asked(), before, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_through_pipes() {
    let scene = Scene::new().await.filled();
    let file = scene.folder.path().join("images.tar");
    let export = [&["export"], &IMAGES[..]].concat();
    scene
        .cli(&[&export[..], &["-o", text(&file)]].concat())
        .done();
    let admin = format!("http://{}", scene.admin());
    let piped = [&export[..], &["-o", "-", "--admin", &admin]].concat();
    let piped = command(&piped).output().unwrap();
    assert!(piped.status.success(), "{piped:?}");
    let said = String::from_utf8(piped.stderr).unwrap();
    assert!(
        said.ends_with("2 images, 12.0 MiB, were written\n"),
        "{said}"
    );
    assert!(piped.stdout == fs::read(&file).unwrap(), "the same archive");

    let admin = format!("http://{}", scene.admin());
    let mut import = command(&["import", "-", "--json", "--admin", &admin]);
    let import = import.stdin(fs::File::open(&file).unwrap()).output();
    let report: ImportReport = serde_json::from_slice(&import.unwrap().stdout).unwrap();
    assert_eq!((report.images.len(), report.bytes), (2, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_exported_can_be_asked_for() {
    let scene = Scene::new().await.filled();
    let fetched = scene.hub.body_bytes_sent();
    let ask = ["export", "-n", "alpine:3.20", "--json"];
    let held: ExportReport = scene.cli(&ask).document();
    assert_eq!(held.images[0].platforms, ["linux/amd64"]);
    assert_eq!(held.left_out[0].platform.as_deref(), Some("linux/arm64"));
    let all: ExportReport = scene
        .cli(&[&ask[..], &["--all-platforms"]].concat())
        .document();
    assert_eq!(all.images[0].platforms, ["linux/amd64", "linux/arm64"]);
    assert!(all.left_out.is_empty(), "{all:?}");
    assert!(all.bytes > held.bytes + (2 << 20), "{all:?} {held:?}");
    let fetched = scene.hub.body_bytes_sent() - fetched;
    assert!(fetched < 1 << 20, "no layer was fetched: {fetched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_learn_why_an_export_failed() {
    let scene = Scene::new().await.filled();
    let output = scene.folder.path().join("images.tar");
    let export = |arguments: &[&str]| {
        let output = ["export", "-o", text(&output)];
        scene.cli(&[&output[..], arguments].concat())
    };
    let said = export(&["alpine:3.99"]).failed(3);
    assert!(
        said.contains("docker.io/library/alpine:3.99 cannot be had"),
        "{said}"
    );
    export(&["redis:7", "--held-only"]).failed(3);
    let said = export(&["alpine:3.20", "-p", "linux/s390x"]).failed(3);
    assert!(said.contains("linux/amd64, linux/arm64"), "{said}");
    export(&["Alpine"]).failed(2);
    export(&["alpine:3.20", "-p", "linux/amd64", "--all-platforms"]).failed(2);
    scene.cli(&["export", "alpine:3.20"]).failed(2);
    let nowhere = ["export", "alpine:3.20", "-o", "/dev/null/images.tar"];
    assert!(
        scene
            .cli(&nowhere)
            .failed(1)
            .contains("/dev/null/images.tar")
    );
    assert!(!output.exists());

    // What breaks off in the middle leaves what was there.
    fs::write(&output, "an older archive").unwrap();
    let broken = ["redis:7", "--no-signatures"];
    export(&[&broken[..], &["-n"]].concat()).done();
    let downloads = Match::any().with_method(Method::GET);
    scene
        .hub
        .fault(downloads, Times::Always, Fault::status(404));
    let said = export(&broken).failed(1);
    assert!(said.contains("broke off after"), "{said}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "an older archive");
    assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_learn_why_an_import_failed() {
    let scene = Scene::new().await.filled();
    let archive = scene.folder.path().join("images.tar");
    let export = [&["export"], &IMAGES[..], &["-o", text(&archive)]].concat();
    scene.cli(&export).done();

    // The mirror knows the one registry, and not the other.
    let hub = scene.hub.url();
    let far = Far::with(|builder| builder.upstream("docker.io", &hub)).await;
    let ran = far.cli(&["import", text(&archive)]);
    assert!(ran.out.contains("1 image can be pulled"), "{ran:?}");
    let said = ran.failed(5);
    assert!(said.contains("ghcr.io/org/tools:v1: "), "{said}");

    let cut = scene.folder.path().join("cut.tar");
    let bytes = fs::read(&archive).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let said = far.cli(&["import", text(&cut)]).failed(1);
    assert!(said.contains("cut short"), "{said}");
    let said = far.cli(&["import", "/no/such.tar"]).failed(1);
    assert!(said.contains("/no/such.tar"), "{said}");
    far.cli(&["import", text(&archive), "--as", "a b"])
        .failed(2);
}

/// The mirror says no long before all of a big archive was sent, and is heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_heard_in_the_middle_of_an_archive() {
    let scene = Scene::new().await.filled();
    let archive = scene.folder.path().join("images.tar");
    let export = ["export", "postgres:16", "-o", text(&archive)];
    scene.cli(&export).done();
    let import = ["import", text(&archive)];

    let hub = scene.hub.url();
    let far = Far::with(|builder| builder.upstream("docker.io", &hub)).await;
    let elsewhere = ["--as", "other.example/postgres:16"];
    let said = far.cli(&[&import[..], &elsewhere].concat()).failed(1);
    assert!(said.contains("other.example is not configured"), "{said}");

    let small = Far::with(|builder| builder.upstream("docker.io", &hub).max_size("2MiB")).await;
    let said = small.cli(&import).failed(1);
    assert!(said.contains("no room"), "{said}");

    let token = scene.folder.path().join("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let guarded = Far::with(|builder| {
        let builder = builder.upstream("docker.io", &hub);
        builder.admin_token_file(&token)
    })
    .await;
    let said = guarded.cli(&import).failed(1);
    assert!(said.contains("--admin-token-file"), "{said}");
    let with_token = [&import[..], &["--admin-token-file", text(&token)]].concat();
    guarded.cli(&with_token).done();
}
