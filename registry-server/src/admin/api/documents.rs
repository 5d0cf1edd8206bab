//! What the cache and the upstreams know, in the words of the API: one function for each document,
//! so that a change on either side is met here.

use bytesize::ByteSize;
use registry_core::cache::{
    BlobDetail, CacheUsage, Collected, Deleted, EvictionCounts, Explanation, Finding, Flaw,
    ImageDetail, ImageSummary, ManifestDetail, RepositorySummary, StillNeeded, TagAnswer,
    VerifyReport, Warmed,
};
use registry_core::{
    LinkTarget, ProgressMade, Reference, Removal, RemovalReason, Timestamp, UpstreamId,
};

use crate::api::{
    EndpointState, Failure, Image, ImageBlob, ImageManifest, ImageName, JobProgress, NextPull,
    QuotaState, Removed, RemovedImage, RemovedObject, Repository, Storage, Time, UpstreamAnswer,
    UpstreamState, Verdict, Why,
};
use crate::upstream::{EndpointQuota, HttpUpstream};

pub(super) fn progress(made: ProgressMade) -> JobProgress {
    JobProgress {
        bytes: made.bytes,
        bytes_total: made.bytes_total,
        items: made.items,
        items_total: made.items_total,
        current: made.current,
    }
}

/// An upstream, and how its endpoints are where it is one over HTTP.
pub(super) fn upstream(
    id: &UpstreamId,
    upstream: Option<&HttpUpstream>,
    bytes: Option<u64>,
) -> UpstreamState {
    let endpoints = upstream.map(HttpUpstream::endpoints).unwrap_or_default();
    UpstreamState {
        name: id.to_string(),
        endpoints: endpoints.into_iter().map(endpoint).collect(),
        bytes,
    }
}

fn endpoint(state: crate::upstream::EndpointState) -> EndpointState {
    EndpointState {
        endpoint: state.endpoint,
        up: state.up,
        since: state.since.map(Time::from),
        last_error: state.last_error.map(|error| Failure {
            at: Time::from(error.at),
            what: error.what,
        }),
        quotas: state.quotas.into_iter().map(quota).collect(),
    }
}

fn quota(told: EndpointQuota) -> QuotaState {
    QuotaState {
        credential: told.credential,
        limit: Some(told.quota.limit),
        remaining: Some(told.quota.remaining),
        window_seconds: told.quota.window.map(|window| window.as_secs()),
        at: Some(Time::from(told.quota.seen_at)),
    }
}

pub(super) fn repository(summary: RepositorySummary) -> Repository {
    Repository {
        upstream: summary.origin.upstream().to_string(),
        repository: summary.origin.repository().to_string(),
        bytes: summary.bytes,
        tags: summary.tags,
    }
}

pub(super) fn image(summary: ImageSummary) -> Image {
    let name = ImageName {
        origin: summary.origin,
        reference: summary.reference,
    };
    let text = |part: &dyn ToString| part.to_string();
    Image {
        name: name.to_string(),
        upstream: name.origin.upstream().to_string(),
        repository: name.origin.repository().to_string(),
        tag: match &name.reference {
            Reference::Tag(tag) => Some(tag.to_string()),
            Reference::Digest(_) => None,
        },
        digest: summary.digest.to_string(),
        platforms: summary.platforms.iter().map(|it| text(it)).collect(),
        bytes: summary.bytes,
        own_bytes: summary.own_bytes,
        complete: summary.complete,
        pinned: summary.pinned,
        fetched_at: time(summary.fetched_at),
        validated_at: time(summary.validated_at),
        accessed_at: time(summary.accessed_at),
        truncated: false,
        manifests: Vec::new(),
    }
}

pub(super) fn image_detail(detail: ImageDetail) -> Image {
    Image {
        truncated: detail.truncated,
        manifests: detail.manifests.into_iter().map(manifest).collect(),
        ..image(detail.summary)
    }
}

fn manifest(detail: ManifestDetail) -> ImageManifest {
    ImageManifest {
        digest: detail.digest.to_string(),
        media_type: detail.media_type.map(|it| it.to_string()),
        artifact_type: detail.artifact_type.map(|it| it.to_string()),
        platform: detail.platform.map(|it| it.to_string()),
        attached_to: detail.attached_to.map(|it| it.to_string()),
        held: detail.held,
        bytes: detail.bytes,
        held_bytes: detail.held_bytes,
        endpoint: detail.endpoint.map(|it| it.to_string()),
        fetched_at: time(detail.fetched_at),
        accessed_at: time(detail.accessed_at),
        blobs: detail.blobs.into_iter().map(blob).collect(),
    }
}

fn blob(detail: BlobDetail) -> ImageBlob {
    ImageBlob {
        digest: detail.digest.to_string(),
        media_type: detail.media_type.map(|it| it.to_string()),
        bytes: detail.bytes,
        held: detail.held,
        shared: detail.shared,
        endpoint: detail.endpoint.map(|it| it.to_string()),
        fetched_at: time(detail.fetched_at),
    }
}

pub(super) fn removed(name: &ImageName, deleted: Deleted) -> Removed {
    Removed {
        name: name.to_string(),
        bytes: deleted.bytes,
        objects: deleted.manifests + deleted.blobs,
        kept: deleted.kept.map(|needed| match needed {
            StillNeeded::Tagged(origin, tag) => {
                format!("{origin}:{tag} names the same, which therefore stays")
            }
            StillNeeded::Listed(index) => {
                format!("the index {index} lists what it named, which therefore stays")
            }
            StillNeeded::Pinned(pin) => format!("{pin} is pinned, and holds what it named"),
        }),
    }
}

pub(super) fn why(name: &ImageName, explanation: Explanation) -> Why {
    use registry_core::cache::{NextPull as Next, Verdict as Held};
    Why {
        name: name.to_string(),
        verdict: match explanation.verdict {
            Held::Cached => Verdict::Cached,
            Held::Partial => Verdict::Partial,
            Held::Filling => Verdict::Filling,
            Held::Removed => Verdict::Removed,
            Held::Absent => Verdict::Absent,
            Held::UnknownUpstream => Verdict::UnknownUpstream,
        },
        explanation: explanation.sentences(),
        next_pull: match &explanation.next_pull {
            Next::Hit => NextPull::Hit,
            Next::Revalidate => NextPull::Revalidate,
            Next::Stale(_) => NextPull::Stale,
            Next::Fetch => NextPull::Fetch,
            Next::Fail(_) => NextPull::Fail,
        },
        image: explanation.image.map(image_detail),
        last_answer: explanation.last_answer.map(answer),
        removal: explanation.removal.map(|removal| RemovedImage {
            at: Time::from(removal.at),
            reason: removal.reason.as_str().to_owned(),
            digest: removal.target.digest().to_string(),
            accessed_at: time(removal.accessed_at),
        }),
    }
}

fn answer(answer: TagAnswer) -> UpstreamAnswer {
    UpstreamAnswer {
        at: Time::from(answer.at),
        endpoint: answer.endpoint.map(|it| it.to_string()),
        answer: answer.said.as_str().to_owned(),
        error: answer.error,
    }
}

pub(super) fn removal(removal: Removal) -> RemovedObject {
    let images = removal
        .tags
        .into_iter()
        .map(|(origin, tag)| format!("{origin}:{tag}"));
    RemovedObject {
        at: Time::from(removal.at),
        reason: removal.reason.as_str().to_owned(),
        object: object(&removal.target).to_owned(),
        digest: removal.target.digest().to_string(),
        images: images.collect(),
        repositories: removal.origins.iter().map(ToString::to_string).collect(),
        bytes: removal.bytes,
        accessed_at: time(removal.accessed_at),
    }
}

/// What was fetched of an image, in a sentence.
pub(super) fn warmed(name: &ImageName, warmed: &Warmed) -> String {
    format!(
        "{name}: {} blobs ({}) are held, of which {} ({}) were fetched now",
        warmed.blobs,
        size(warmed.bytes),
        warmed.fetched_blobs,
        size(warmed.fetched_bytes),
    )
}

/// What a verification came to, in sentences.
pub(super) fn verified(report: &VerifyReport) -> Vec<String> {
    let mut lines = vec![format!(
        "{} manifests and {} blobs ({}) were hashed",
        report.manifests,
        report.blobs,
        size(report.bytes)
    )];
    lines.push(match (report.damaged, report.missing, report.unreadable) {
        (0, 0, 0) => "all of it is what its digest names".to_owned(),
        (damaged, missing, unreadable) => format!(
            "{damaged} were damaged and {missing} missing, and are fetched anew when they are \
             pulled; {unreadable} could not be read"
        ),
    });
    lines
}

/// What an eviction came to, in sentences: what went, and then how much that was in all.
pub(super) fn collected(collected: &Collected, is_dry: bool) -> Vec<String> {
    let went = collected.removed.iter().map(|removal| {
        let names = removal
            .tags
            .iter()
            .map(|(origin, tag)| format!("{origin}:{tag}"));
        let names: Vec<_> = names.collect();
        let digest = removal.target.digest();
        let what = match (&names[..], &removal.origins[..]) {
            ([], [origin, ..]) => format!("{origin}@{digest}"),
            ([], []) => format!("{} {digest}", object(&removal.target)),
            (names, _) => names.join(", "),
        };
        format!(
            "{what} ({}, {})",
            size(removal.bytes),
            removal.reason.as_str()
        )
    });
    let verb = if is_dry { "would be" } else { "were" };
    let sum = format!(
        "{} images and single blobs ({}) {verb} evicted",
        collected.count,
        size(collected.bytes)
    );
    went.chain([sum]).collect()
}

/// What is wrong with some content, in a sentence; whether it could not be put right.
pub(super) fn finding(finding: &Finding) -> (String, bool) {
    let what = object(&finding.target);
    let digest = finding.target.digest();
    let (how, failed) = match finding.flaw {
        Flaw::Damaged => ("was not what its digest names, and was removed", false),
        Flaw::Missing => ("was missing", false),
        Flaw::Unreadable => ("could not be read, and is left as it is", true),
    };
    (format!("{what} {digest} {how}"), failed)
}

fn object(target: &LinkTarget) -> &'static str {
    match target {
        LinkTarget::Manifest(_) => "manifest",
        LinkTarget::Blob(_) => "blob",
    }
}

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

fn time(at: Option<Timestamp>) -> Option<Time> {
    at.map(Time::from)
}

/// How much is kept, and what has become of the rest.
pub(super) fn storage(usage: &CacheUsage, evictions: &EvictionCounts) -> Storage {
    let kept = &usage.kept;
    // What a person deleted was not evicted, and what was damaged was not there.
    let not_evicted = |it| matches!(it, RemovalReason::Deleted | RemovalReason::Damaged);
    let evicted = evictions.iter().filter(|(reason, _)| !not_evicted(*reason));
    Storage {
        bytes: kept.bytes,
        bytes_max: usage.bytes_max,
        unfinished_bytes: kept.unfinished_bytes.max(usage.promised_bytes),
        free_bytes: kept.free_bytes,
        blobs: kept.blobs,
        manifests: kept.manifests,
        evicted_bytes: evicted.map(|(_, evicted)| evicted.bytes).sum(),
        ..Storage::default()
    }
}
