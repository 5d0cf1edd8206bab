//! `why`, in each situation that somebody asks it in: what it says, and its exit status.

use std::time::{Duration, Instant};

use bytes::Bytes;
use registry_server::api::{NextPull, Verdict, Why};
use registry_server::config::UpstreamConfig;
use registry_server::testing::{Fault, Gate, Match, Object, Times};

use crate::support::Scene;

/// How long anything is waited for before the test fails.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What is said of an image.
struct Wanted<'a> {
    code: i32,
    verdict: Verdict,
    next_pull: NextPull,
    /// Parts of what is said, in this order.
    says: &'a [&'a str],
}

/// Asks about an image, as a person and as a script does.
#[track_caller]
fn assert_why(scene: &Scene, image: &str, wanted: &Wanted<'_>) {
    let ran = scene.cli(&["why", image]);
    assert_eq!(ran.code, Some(wanted.code), "{ran:?}");
    assert_eq!(ran.err, "");
    let mut rest = &ran.out[..];
    for part in wanted.says {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("{part:?} is not said, or earlier:\n{}", ran.out);
        };
        rest = after;
    }
    let document = scene.cli(&["why", "--json", image]);
    assert_eq!(document.code, Some(wanted.code), "{document:?}");
    let why: Why = document.document();
    assert_eq!(
        (why.verdict, why.next_pull),
        (wanted.verdict, wanted.next_pull)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh() {
    let scene = Scene::with(|builder, _| builder.tag_ttl(Duration::from_secs(3600))).await;
    let scene = scene.filled();
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Cached,
        next_pull: NextPull::Hit,
        says: &[
            "alpine:3.20  cached\n",
            "The next pull is served without asking docker.io.",
            "The tag is fresh for 1 hour more.",
            "Next pull    is served from the cache; nobody is asked\n",
        ],
    };
    assert_why(&scene, "alpine:3.20", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_be_revalidated() {
    let scene = Scene::new().await.filled();
    scene.pull_manifest("docker.io", "library/alpine", "3.20");
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Cached,
        next_pull: NextPull::Revalidate,
        says: &[
            "alpine:3.20  cached\n",
            "The next pull asks docker.io once whether it is right still",
            "said that the tag is unchanged.",
            "Next pull    asks the registry once",
            "Last answer  unchanged, ",
        ],
    };
    assert_why(&scene, "alpine:3.20", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale() {
    let scene = Scene::new().await.filled();
    scene.ghcr.stop().await;
    scene.pull_manifest("ghcr.io", "org/tools", "v1");
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Cached,
        next_pull: NextPull::Stale,
        says: &[
            "tools:v1  cached\n",
            "The next pull is served what is here, marked stale: the upstream cannot be asked now.",
            "was unavailable: ",
            "ghcr.io has not been asked for ",
            "Next pull    is served from the cache, marked stale\n",
            "Last answer  unavailable, ",
        ],
    };
    assert_why(&scene, "ghcr.io/org/tools:v1", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn gone() {
    let scene = Scene::new().await.filled();
    scene.hub.delete_tag("library/alpine", "3.20");
    scene.pull_manifest("docker.io", "library/alpine", "3.20");
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Cached,
        next_pull: NextPull::Stale,
        says: &[
            "alpine:3.20  cached\n",
            "marked stale: the upstream has it no longer.",
            "said that there is no such tag.",
            // The registry was asked, and has answered.
            "Next pull    is served from the cache, marked stale\n",
            "Last answer  absent, ",
        ],
    };
    assert_why(&scene, "alpine:3.20", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn never_seen() {
    let scene = Scene::new().await.filled();
    let wanted = Wanted {
        code: 3,
        verdict: Verdict::Absent,
        next_pull: NextPull::Fetch,
        says: &[
            "redis:7  not cached\n",
            "It is not cached, and was not as far back as is known.",
            "The next pull fetches it from docker.io.",
        ],
    };
    assert_why(&scene, "redis:7", &wanted);
    let wanted = Wanted {
        code: 3,
        verdict: Verdict::UnknownUpstream,
        next_pull: NextPull::Fail,
        says: &[
            "quay.io/org/app:1  unknown upstream\n",
            "No upstream quay.io is configured, so nothing is fetched from there.",
            "The next pull fails: ",
        ],
    };
    assert_why(&scene, "quay.io/org/app:1", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn being_fetched() {
    let scene = Scene::new().await;
    let gate = Gate::new();
    let held = Fault::HoldAfter {
        bytes: 100,
        gate: gate.clone(),
    };
    scene
        .hub
        .fault(Match::object(Object::Blob), Times::Always, held);
    scene.cli(&["warm", "--detach", "redis:7"]).done();
    let begun = Instant::now();
    while scene
        .cli(&["why", "--json", "redis:7"])
        .document::<Why>()
        .verdict
        != Verdict::Filling
    {
        assert!(begun.elapsed() < WAIT_MAX, "nothing is fetched");
    }
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Filling,
        next_pull: NextPull::Fetch,
        says: &["redis:7  being fetched\n", "being fetched, and "],
    };
    assert_why(&scene, "redis:7", &wanted);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn evicted_and_deleted() {
    let scene = Scene::new().await.filled();
    scene.cli(&["rm", "ghcr.io/org/tools:v1"]).done();
    scene.cli(&["gc", "--to", "4MiB"]).done();
    let wanted = Wanted {
        code: 3,
        verdict: Verdict::Removed,
        next_pull: NextPull::Fetch,
        says: &[
            "postgres:16  was removed\n",
            "It was cached, and was removed.",
            "The next pull fetches it from docker.io.",
            "It was evicted, since the budget was used up, ",
            "the budget for all content was used up",
        ],
    };
    assert_why(&scene, "postgres:16", &wanted);
    let wanted = Wanted {
        says: &[
            "tools:v1  was removed\n",
            "The next pull fetches it from ghcr.io.",
            "It was deleted by a person, ",
            "a person asked for it",
        ],
        ..wanted
    };
    assert_why(&scene, "ghcr.io/org/tools:v1", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_in_part() {
    let scene = Scene::new().await;
    scene.pull_manifest("docker.io", "library/redis", "7");
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Partial,
        next_pull: NextPull::Fetch,
        says: &[
            "redis:7  partly cached\n",
            "It is cached in part: 2 parts are missing.",
            "The next pull fetches what is missing from docker.io.",
            "2 blobs are missing:\n",
        ],
    };
    assert_why(&scene, "redis:7", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged() {
    let scene = Scene::new().await;
    scene.cli(&["warm", "redis:7"]).done();
    let file = scene.biggest_file(&scene.folder.path().join("data/blobs"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    scene.cli(&["verify"]).done();
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Partial,
        next_pull: NextPull::Fetch,
        says: &[
            "redis:7  partly cached\n",
            "It is cached in part: 1 part is missing.",
            "A part of it was removed, since it was damaged, ",
            "Removed      ",
            "what was stored was damaged",
            "1 blob is missing:\n",
        ],
    };
    assert_why(&scene, "redis:7", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen() {
    let site = |url: &str| UpstreamConfig::new([url.parse().unwrap()]);
    let scene = Scene::with_hub(|builder, url| {
        let mut hub = site(url);
        hub.rules.frozen = Some(true);
        builder.upstream_config("docker.io", hub)
    })
    .await
    .filled();
    scene.hub.delete_tag("library/alpine", "3.20");
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Cached,
        next_pull: NextPull::Hit,
        says: &[
            "alpine:3.20  cached\n",
            "The next pull is served without asking docker.io.",
            "The repository is frozen: a tag that is held is never asked for again.",
        ],
    };
    assert_why(&scene, "alpine:3.20", &wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn limited() {
    let scene = Scene::new().await.filled();
    let limited = Fault::Answer {
        status: 429,
        headers: vec![("Retry-After".to_owned(), "1800".to_owned())],
        body: Bytes::new(),
    };
    scene.hub.fault(Match::any(), Times::Always, limited);
    scene.pull_manifest("docker.io", "library/alpine", "3.20");
    let wanted = Wanted {
        code: 0,
        verdict: Verdict::Cached,
        next_pull: NextPull::Stale,
        says: &[
            "alpine:3.20  cached\n",
            "marked stale: the upstream limits requests.",
            "limited the rate of requests",
            "docker.io limits requests, and is asked again in ",
            "Next pull    is served from the cache, marked stale\n",
            "Last answer  ",
        ],
    };
    assert_why(&scene, "alpine:3.20", &wanted);
    // And what is not here cannot be had.
    let wanted = Wanted {
        code: 3,
        verdict: Verdict::Absent,
        next_pull: NextPull::Fail,
        says: &[
            "redis:7  not cached\n",
            "The next pull fails: ",
            "Next pull    fails\n",
        ],
    };
    assert_why(&scene, "redis:7", &wanted);
}
